"""Attention against a dense oracle over random ragged spans: the reference and the CPU kernels.

The layout of pages decides which of them computes.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.masking_utils import sliding_window_overlay
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

import csrc_triton
from csrc_triton import PagedSpan, PrefillPlan, WorkList, pages
from tests.helpers.worlds import (
    POISON,
    World,
    build_world,
    check_around_nan,
    decode_worlds,
    dense_decode,
    make_prefill,
    prefill_worlds,
)

pytestmark = pytest.mark.slow

prove = settings(deadline=None, derandomize=True, max_examples=50)
CLOSE = {"atol": 2e-6, "rtol": 2e-5}
# Plain torch reads the first, the CPU kernels read the second if a page has 16 tokens.
by_reference_and_kernels = pytest.mark.parametrize(
    "layout", [pages.token_major, pages.vector_major], ids=["reference", "kernels"]
)


def decode(world: World, work: WorkList) -> torch.Tensor:
    return csrc_triton.decode_attention(
        world.q,
        world.k_cache,
        world.v_cache,
        work,
        world.scale,
        window=world.window,
        positions=world.row_positions,
        sinks=world.sinks,
    )


def prefill(world: World, plan: PrefillPlan) -> torch.Tensor:
    return csrc_triton.prefill_attention(
        world.q,
        world.k_cache,
        world.v_cache,
        plan,
        world.scale,
        window=world.window,
        sinks=world.sinks,
    )


@by_reference_and_kernels
@prove
@given(decode_worlds(), st.integers(1, 50))
def test_decode_equals_dense_attention_however_it_is_shared_and_split(layout, world, split):
    world = world.laid_out(layout)
    expected = dense_decode(world)
    for work in (world.private_work(), world.shared_work(), world.shared_work(split)):
        torch.testing.assert_close(decode(world, work), expected, **CLOSE)


@by_reference_and_kernels
@prove
@given(decode_worlds(), st.randoms(use_true_random=False))
def test_spans_may_be_visited_in_any_order(layout, world, rng):
    world = world.laid_out(layout)
    shuffled = replace(world, contexts=[rng.sample(c, len(c)) for c in world.contexts])
    torch.testing.assert_close(
        decode(shuffled, shuffled.private_work(7)), decode(world, world.private_work(7)), **CLOSE
    )


@by_reference_and_kernels
@prove
@given(decode_worlds())
def test_a_row_does_not_depend_on_the_others_bit_for_bit(layout, world):
    world = world.laid_out(layout)
    together = decode(world, world.private_work(8))
    for row, context in enumerate(world.contexts):
        mine = slice(row, row + 1)
        place = world.row_positions[mine]
        alone = replace(world, q=world.q[mine], contexts=[context], row_positions=place)
        assert torch.equal(decode(alone, alone.private_work(8))[0], together[row])


@by_reference_and_kernels
@prove
@given(decode_worlds())
def test_items_without_tokens_and_buffers_with_room_to_spare_change_nothing(layout, world):
    world = world.laid_out(layout)
    work = world.shared_work(16)
    assert torch.equal(decode(world, roomy(work)), decode(world, work))
    emptied = work.items.clone()
    emptied[:, 4] = emptied[:, 3]
    nothing = replace(work, items=emptied)
    out, lse = csrc_triton.decode_attention_partials(
        world.q, world.k_cache, world.v_cache, nothing, world.scale
    )
    assert not out.any()
    assert bool(lse.isneginf().all())
    assert not decode(world, nothing).any()


def roomy(work: WorkList) -> WorkList:
    """The same work in longer tensors with garbage at their end, like a CUDA graph's buffers."""

    def longer(x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, torch.full((3, *x.shape[1:]), 10**6, dtype=x.dtype)))

    names = ("items", "row_ids", "page_table", "partial_ids")
    return replace(work, **{name: longer(getattr(work, name)) for name in names})


@by_reference_and_kernels
@prove
@given(decode_worlds())
def test_huge_logits_do_not_overflow(layout, world):
    world = world.laid_out(layout)
    # Scores reach tens of thousands, where neighbouring fp32 values of the LSE differ by 1/256. So
    # the weights of tied scores on two sides of a split are no more exact than that.
    sharp = world.sharpened()
    out = decode(sharp, sharp.shared_work(5))
    torch.testing.assert_close(out, dense_decode(sharp), atol=2e-2, rtol=0)


def test_partials_carry_the_natural_log_of_their_denominator():
    k_cache, q = torch.randn(1, 16, 1, 16), torch.randn(1, 1, 16)
    work = WorkList.from_spans([([0], PagedSpan([0], 2, 9))], 1, split=16)
    out, lse = csrc_triton.decode_attention_partials(q, k_cache, k_cache, work, 0.5)
    scores = k_cache[0, 2:9, 0] @ q[0, 0] * 0.5
    torch.testing.assert_close(lse[0, 0], scores.exp().sum().log(), **CLOSE)
    torch.testing.assert_close(out[0, 0], scores.softmax(0) @ k_cache[0, 2:9, 0], **CLOSE)


@by_reference_and_kernels
@prove
@given(prefill_worlds())
def test_prefill_equals_dense_attention(layout, case):
    world, computed = case[0].laid_out(layout), case[1]
    plan, expected = make_prefill(world, computed)
    torch.testing.assert_close(prefill(world, plan), expected, **CLOSE)


@by_reference_and_kernels
@prove
@given(decode_worlds(), prefill_worlds(), st.data())
def test_a_token_whose_kv_is_nan_reaches_only_the_rows_that_see_it(layout, world, case, data):
    world = spoilt(world.laid_out(layout), data)
    for work in (world.shared_work(16), world.private_work(30)):
        check_around_nan(decode(world, work), dense_decode(world), **CLOSE)
    world, computed = spoilt(case[0].laid_out(layout), data), case[1]
    plan, expected = make_prefill(world, computed)
    check_around_nan(prefill(world, plan), expected, **CLOSE)


def spoilt(world: World, data: st.DataObject) -> World:
    segment = data.draw(st.integers(0, len(world.keys) - 1))
    return world.spoilt(segment, data.draw(st.integers(0, len(world.keys[segment]) - 1)))


@pytest.mark.parametrize("window", [None, 7])
def test_sinks_and_windows_are_those_of_gpt_oss(window):
    """A chunk of 30 tokens behind none and behind 11, and its last token alone."""
    options = {"window": window, "positions": [5], "row_positions": [34], "sinks": True}
    world = build_world([30], [[]], 30, **options)
    keys, values = (x[0].transpose(0, 1)[None] for x in (world.keys, world.values))
    masked = torch.ones(30, 30, dtype=torch.bool).triu(1)
    if window is not None:
        places = torch.arange(30)
        masked |= ~sliding_window_overlay(window)(0, 0, places[:, None], places)
    mask = torch.zeros(30, 30).masked_fill(masked, -torch.inf)
    theirs, _ = eager_attention_forward(
        SimpleNamespace(num_key_value_groups=3, sinks=world.sinks, training=False),
        world.q.transpose(0, 1)[None],
        keys,
        values,
        mask[None, None],
        world.scale,
    )
    for computed in (0, 11):
        plan, _ = make_prefill(replace(world, window=None), [computed])
        ours = prefill(replace(world, q=world.q[computed:]), plan)
        torch.testing.assert_close(ours, theirs[0, computed:], **CLOSE)
    last = replace(world, q=world.q[-1:], contexts=[[(0, 0, 30)]])
    torch.testing.assert_close(decode(last, last.private_work(8)), theirs[0, -1:], **CLOSE)


def test_decode_is_prefill_of_one_token():
    q, cache = torch.randn(1, 4, 16), torch.randn(3, 4, 2, 16)
    context, own = PagedSpan([2], 1, 3), PagedSpan([0, 1], 5, 6)
    plan = PrefillPlan.from_segments([(own, [context])])
    work = WorkList.from_spans([([0], own._replace(start=0)), ([0], context)], 1, split=64)
    torch.testing.assert_close(
        csrc_triton.decode_attention(q, cache, cache, work, 0.25),
        csrc_triton.prefill_attention(q, cache, cache, plan, 0.25),
        **CLOSE,
    )


def test_merge_states_leaves_the_other_side_of_an_empty_one_as_it_was():
    out, lse = torch.randn(3, 16), torch.randn(3)
    empty, nothing = torch.zeros(3, 16), torch.full((3,), -torch.inf)
    for merged in (
        csrc_triton.merge_states(out, lse, empty, nothing),
        csrc_triton.merge_states(empty, nothing, out, lse),
    ):
        assert torch.equal(merged[0], out)
        assert torch.equal(merged[1], lse)
    zero, still_nothing = csrc_triton.merge_states(empty, nothing, empty, nothing)
    assert not zero.any()
    assert bool(still_nothing.isneginf().all())


def test_a_long_span_is_cut_from_its_own_start():
    work = WorkList.from_spans([([1, 0], PagedSpan([5, 6, 7], 3, 40))], 2, split=16)
    assert work.items[:, 3:5].tolist() == [[3, 19], [19, 35], [35, 40]]
    assert work.items[:, 0].tolist() == [0, 2, 4]
    assert work.row_ids.tolist() == [1, 0] * 3
    assert work.partial_ids.tolist() == [1, 3, 5, 0, 2, 4]
    assert work.partial_ranges.tolist() == [[0, 3], [3, 6]]
    assert (work.num_rows, work.max_rows_per_item) == (2, 2)


@pytest.mark.parametrize(
    ("rows", "span", "split"),
    [
        ([0], PagedSpan([0], 0, 1), 0),
        ([1], PagedSpan([0], 0, 1), 4),
        ([0], PagedSpan([], -1, 1), 4),
    ],
)
def test_a_bad_work_list_is_refused(rows, span, split):
    with pytest.raises(ValueError, match=r"split|rows"):
        WorkList.from_spans([(rows, span)], 1, split)


def test_a_chunk_without_tokens_is_refused():
    with pytest.raises(ValueError, match="chunk"):
        PrefillPlan.from_segments([(PagedSpan([0], 3, 3), [])])


def test_attention_refuses_shapes_that_do_not_fit():
    work = WorkList.from_spans([([0], PagedSpan([0], 0, 1))], 1, split=4)
    q, cache = torch.zeros(1, 3, 16), torch.full((1, 4, 2, 16), POISON)
    with pytest.raises(ValueError, match="do not fit"):
        csrc_triton.decode_attention(q, cache, cache, work, 1.0)
    with pytest.raises(ValueError, match="rows"):
        csrc_triton.decode_attention(q[:, :2].repeat(2, 1, 1), cache, cache, work, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4}, "a window needs positions"),
        ({"window": 0, "positions": torch.tensor([3])}, "window must be at least 1, got 0"),
        ({"window": 4, "positions": torch.tensor([3, 4])}, "positions for 1 rows"),
        ({"sinks": torch.zeros(3)}, "sinks must be fp32"),
        ({"sinks": torch.zeros(2, dtype=torch.float16)}, "sinks must be fp32"),
    ],
)
def test_attention_refuses_windows_and_sinks_that_do_not_fit(options, message):
    q, cache = torch.zeros(1, 2, 16), torch.zeros(1, 4, 2, 16)
    work = WorkList.from_spans([([0], PagedSpan([0], 0, 1))], 1, split=4)
    with pytest.raises(ValueError, match=message):
        csrc_triton.decode_attention(q, cache, cache, work, 1.0, **options)
    plan = PrefillPlan.from_segments([(PagedSpan([0], 0, 1), [])])
    if "positions" not in options and "sinks" in options:
        with pytest.raises(ValueError, match=message):
            csrc_triton.prefill_attention(q, cache, cache, plan, 1.0, **options)
