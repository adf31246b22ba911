"""Every row once per epoch, the same mixture at every step, packs that fit and balance."""

from __future__ import annotations

import numpy as np
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
        sizes = [len(step) for step in steps]
        assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1
        assert max(sizes) <= batch
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


@pytest.mark.parametrize(
    ("ranks", "mean", "fill"), [(1, 5000, 0.97), (8, 6000, 0.94), (64, 7600, 0.9)]
)
def test_packs_are_full_whatever_the_number_of_ranks(ranks: int, mean: int, fill: float) -> None:
    """On a GPU each pack costs the same, and ranks have the same number of them.

    256 rows of lognormal lengths, of about 119 packs for 64 ranks: 128 hold them if they are nearly
    full, and the next number is 192.
    """
    tokens = packs = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        drawn = rng.lognormal(0.0, 0.6, 2000)
        lengths = (drawn / drawn.mean() * mean).astype(int)
        lengths = lengths[lengths <= 16_384]
        lengths = (lengths[:256] * (256 * mean / lengths[:256].sum())).astype(int).clip(1, 16_384)
        tokens += int(lengths.sum())
        packs += len(pack(lengths.tolist(), 16_384, ranks))
    assert tokens / (packs * 16_384) >= fill


def test_packs_are_alike_where_that_takes_no_more_of_them() -> None:
    lengths = [10, 20, 30, 40, 50, 60]
    packs = pack(lengths, 200, world_size=3)
    assert sorted(sum(lengths[index] for index in one) for one in packs) == [70, 70, 70]


def test_a_row_that_no_pack_holds_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="pack: a row has 101 tokens, a pack holds 100"):
        pack([5, 101], 100, world_size=1)
