"""Every row once per epoch, the same mixture at every step, packs that fit and balance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsr_engine import InvalidRequest
from train.trainer.batches import Plan, pack


@given(
    direct=st.integers(0, 40),
    refine=st.integers(0, 40),
    batch=st.integers(1, 50),
    seed=st.integers(0, 5),
)
def test_every_row_once_per_epoch_in_an_even_mixture(
    direct: int, refine: int, batch: int, seed: int
) -> None:
    if not direct + refine:
        return
    plan = Plan(["direct"] * direct + ["refine"] * refine, batch, seed)
    epochs = []
    for epoch in range(2):
        begin = epoch * plan.steps_per_epoch
        steps = [plan.rows(begin + step) for step in range(plan.steps_per_epoch)]
        assert sorted(row for step in steps for row in step) == list(range(direct + refine))
        for amount, kind in ((direct, range(direct)), (refine, range(direct, direct + refine))):
            taken = [sum(row in kind for row in step) for step in steps]
            assert all(abs(one - amount / len(steps)) < 1 for one in taken)
        epochs.append(steps)
    if direct + refine > 20:
        assert epochs[0] != epochs[1]  # shuffled again


def test_a_step_does_not_depend_on_those_before() -> None:
    objectives = ["direct", "refine", "refine"] * 7
    whole = [Plan(objectives, 4, seed=3).rows(step) for step in range(12)]
    assert [Plan(objectives, 4, seed=3).rows(step) for step in reversed(range(12))] == whole[::-1]
    assert [Plan(objectives, 4, seed=4).rows(step) for step in range(12)] != whole


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=60),
    max_tokens=st.integers(100, 400),
    world_size=st.integers(1, 5),
)
def test_packs_hold_every_row_once_and_no_more_than_fits(
    lengths: list[int], max_tokens: int, world_size: int
) -> None:
    packs = pack(lengths, max_tokens, world_size)
    assert len(packs) % world_size == 0
    assert sorted(place for places in packs for place in places) == list(range(len(lengths)))
    assert all(sum(lengths[place] for place in places) <= max_tokens for places in packs)


def test_packs_of_many_rows_are_well_filled() -> None:
    lengths = [200 + 37 * index % 1500 for index in range(256)]
    packs = pack(lengths, 16_384, world_size=1)
    assert sum(lengths) / (len(packs) * 16_384) > 0.9


def test_a_row_that_no_pack_holds_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="pack: a row has 101 tokens, a pack holds 100"):
        pack([5, 101], 100, world_size=1)
