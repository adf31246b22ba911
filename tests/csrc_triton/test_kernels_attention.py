"""Attention kernels against their references, over random ragged spans."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csrc_triton import (
    PagedSpan,
    PrefillPlan,
    WorkList,
    decode,
    prefill,
    reference,
    tiles,
    tiling,
)
from tests.csrc_triton.conftest import INTERPRETED
from tests.helpers.worlds import (
    build_world,
    check_around_nan,
    decode_worlds,
    dense_decode,
    make_prefill,
    on,
    prefill_worlds,
)

prove = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TOLERANCE = {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
CLOSE = {"atol": 5e-6, "rtol": 5e-5}
HEAD_DIMS = (16, 32, 64, 80, 96, 128, 256)


def close(actual, expected, dtype):
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        actual.float().cpu(), expected.float().cpu(), atol=tolerance, rtol=tolerance
    )


def run_decode(module, world, work):
    partials = module.decode_attention_partials(
        world.q, world.k_cache, world.v_cache, work, world.scale, world.window, world.row_positions
    )
    return *partials, module.reduce_partials(*partials, work, world.q.dtype, world.sinks)


def check_decode(world, work, dtype, device):
    here, there = world.to(dtype, "cpu"), world.to(dtype, device)
    expected, actual = (
        run_decode(reference, here, work),
        run_decode(decode, there, on(work, device)),
    )
    for one, other in zip(actual, expected, strict=True):
        close(one, other, dtype)


@prove
@given(world=decode_worlds(), split=st.sampled_from([3, 16, 100]))
def test_decode_over_any_work_list(world, split, dtype, device):
    check_decode(world, world.shared_work(split), dtype, device)
    check_decode(world, world.private_work(split), dtype, device)


@prove
@given(world=decode_worlds(), split=st.sampled_from([5, 100]), programs=st.sampled_from([1, 3, 99]))
def test_few_programs_walk_all_items(world, split, programs, dtype, device):
    work = world.shared_work(split)
    here, there = world.to(dtype, "cpu"), world.to(dtype, device)
    expected = torch.empty_like(here.q)
    step = (world.window, world.row_positions, world.sinks)
    reference.decode_attention(here.q, here.k_cache, here.v_cache, work, 0.3, *step, expected)
    step = (there.window, there.row_positions, there.sinks)
    actual = torch.full_like(there.q, torch.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "num_programs", lambda _: programs)
        cache = there.k_cache, there.v_cache
        decode.decode_attention(there.q, *cache, on(work, device), 0.3, *step, actual)
    close(actual, expected, dtype)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_decode_at_every_head_dim(head_dim, dtype, device):
    problem, candidate, tail = (0, 0, 37), (1, 3, 20), (2, 0, 5)
    contexts = [[problem, candidate], [problem, tail], [tail]]
    world = build_world([37, 30, 5], contexts, 3, head_dim=head_dim)
    check_decode(world, world.shared_work(20), dtype, device)


@prove
@given(world=decode_worlds())
def test_shared_and_private_lists_agree(world, device):
    world = world.to(torch.float32, device)
    shared = run_decode(decode, world, on(world.shared_work(16), device))[-1]
    private = run_decode(decode, world, on(world.private_work(16), device))[-1]
    close(shared, private, torch.float32)


@prove
@given(world=decode_worlds())
def test_huge_logits(world, device):
    sharp = world.sharpened().to(torch.float32, device)
    work = world.shared_work(5)
    actual = run_decode(decode, sharp, on(work, device))[-1]
    expected = run_decode(reference, sharp.to(torch.float32, "cpu"), work)[-1]
    # The LSE is so large that neighbouring fp32 values differ by up to 1/256.
    torch.testing.assert_close(actual.cpu(), expected, atol=2e-2, rtol=0)


def test_an_item_with_more_lanes_than_a_tile(dtype, device):
    """13 siblings of 7 heads are 91 lanes: the heads of one row fall into two tiles."""
    torch.manual_seed(0)
    q, cache = torch.randn(13, 14, 32), torch.randn(3, 16, 2, 32)
    work = WorkList.from_spans([(range(13), PagedSpan([2, 0], 3, 20))], 13, split=64)
    q, cache = q.to(dtype), cache.to(dtype)
    expected = reference.decode_attention_partials(q, cache, cache, work, 0.2)
    actual = decode.decode_attention_partials(
        q.to(device), cache.to(device), cache.to(device), on(work, device), 0.2
    )
    for one, other in zip(actual, expected, strict=True):
        close(one, other, dtype)


def test_wide_and_narrow_items_in_one_list(dtype, device):
    """Ten siblings of 7 heads share a problem (70 lanes), and each has its own tail (7 lanes)."""
    problem, tail = (0, 1, 70), (1, 0, 21)
    world = build_world([70, 21], [[problem, tail]] * 10, 10, heads=(1, 7), head_dim=32)
    shared = (range(10), world.span(*problem))
    tails = [([row], world.span(*tail)) for row in range(10)]
    work = WorkList.from_spans([shared, *tails], 10, split=50)
    check_decode(world, work, dtype, device)


@pytest.mark.parametrize("head_dim", [16, 80, 128])
def test_a_row_of_any_number_of_partials(head_dim, device):
    """Up to more partials than one block merges; some partials are empty, one row has none."""
    counts = [0, 1, 3, 4, 5, 16, 17, 70]
    begins = [sum(counts[:row]) for row in range(len(counts))]
    contexts = [[(0, b, b + count)] for b, count in zip(begins, counts, strict=True)]
    world = build_world([sum(counts)], contexts, len(counts), head_dim=head_dim)
    work = world.private_work(split=1)
    assert work.partial_ranges.diff().flatten().tolist() == counts
    work.items[5:8, 4] = work.items[5:8, 3]  # three of the four partials of row 3 are empty
    *partials, expected = run_decode(reference, world, work)
    partials = [x.to(device) for x in partials]
    merged = decode.reduce_partials(*partials, on(work, device), torch.float32)
    close(merged, expected, torch.float32)


def test_items_without_tokens_and_room_to_spare(device):
    torch.manual_seed(0)
    q, cache = torch.randn(2, 2, 16).to(device), torch.randn(2, 16, 1, 16).to(device)
    work = WorkList.from_spans([([0, 1], PagedSpan([1], 4, 10)), ([1], PagedSpan([0], 0, 4))], 2, 4)
    items = torch.cat((work.items, work.items))
    items[1, 3] = items[1, 4]  # the second piece of the shared span reads nothing
    items[3:, 4] -= 1  # behind num_items: if they were read, they would overwrite the entries
    work = on(replace(work, items=items), device)
    out, lse = decode.decode_attention_partials(q, cache, cache, work, 0.25)
    expected = reference.decode_attention_partials(q, cache, cache, work, 0.25)
    close(out, expected[0], torch.float32)
    close(lse, expected[1], torch.float32)
    assert bool(lse[2:4].isneginf().all())
    nothing = torch.full_like(lse, -torch.inf)
    assert not decode.reduce_partials(out, nothing, work, torch.float32).any()


@prove
@given(case=prefill_worlds())
def test_prefill_over_any_context(case, dtype, device):
    check_prefill(*case, dtype, device)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_prefill_at_every_head_dim(head_dim, dtype, device):
    """The longer chunk has 45 * 3 lanes: the heads of one row fall into two tiles."""
    world = build_world([49, 9], [[(1, 2, 9)], []], 45 + 9, head_dim=head_dim)
    check_prefill(world, [4, 0], dtype, device)


def check_prefill(world, computed, dtype, device):
    plan, _ = make_prefill(world, computed)
    actual = run_prefill(prefill, world.to(dtype, device), on(plan, device))
    close(actual, run_prefill(reference, world.to(dtype, "cpu"), plan), dtype)


@prove
@given(case=prefill_worlds(), least=st.integers(1, 30), at_once=st.sampled_from([7, 20, 1000]))
def test_prefill_in_sections(case, least, at_once, dtype, device):
    """Short chunks behind long contexts: tokens are cut anywhere, and merged launch by launch."""
    world, computed = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "FILL", 7)
        patch.setattr(tiling, "LEAST", least)
        patch.setattr(tiling, "AT_ONCE", at_once)
        check_prefill(world, computed, dtype, device)


def test_a_short_chunk_behind_a_long_context_fills_the_chip(device):
    """Beside a chunk without context, and one whose own computed tokens are the long part."""
    lengths, contexts = [40, 9, 1300], [[(2, 0, 1100)], [], []]
    world = build_world(lengths, contexts, 20 + 9 + 5, heads=(1, 2))
    plan, _ = make_prefill(world, [20, 0, 1295])
    tiles = plan.tiled(prefill.prefill_tiling(2, world.k_cache))
    assert tiles.tiles[:, 0].bincount().tolist() == [4, 1, 2]  # of two, one and one tiles
    (part,) = tiles.parts
    assert part.rows == slice(0, 34)
    assert part.num_entries == 2 * 20 + 2 * 5
    check_prefill(world, [20, 0, 1295], torch.float32, device)


def run_prefill(module, world, plan):
    return module.prefill_attention(
        world.q, world.k_cache, world.v_cache, plan, world.scale, world.window, world.sinks
    )


@prove
@given(world=decode_worlds(), data=st.data())
def test_decode_is_not_spoilt_by_what_a_window_hides(world, data, device):
    segment = data.draw(st.integers(0, len(world.keys) - 1))
    world = replace(world, window=data.draw(st.integers(1, 60)))
    world = world.spoilt(segment, data.draw(st.integers(0, len(world.keys[segment]) - 1)))
    for work in (world.shared_work(16), world.private_work(30)):
        there = world.to(torch.float32, device)
        actual = run_decode(decode, there, on(work, device))[-1].cpu()
        check_around_nan(actual, dense_decode(world), **CLOSE)


@prove
@given(case=prefill_worlds(), data=st.data())
def test_prefill_is_not_spoilt_by_what_a_window_hides(case, data, device):
    world, computed = case
    segment = data.draw(st.integers(0, len(world.keys) - 1))
    world = replace(world, window=data.draw(st.integers(1, 60)))
    world = world.spoilt(segment, data.draw(st.integers(0, len(world.keys[segment]) - 1)))
    plan, expected = make_prefill(world, computed)
    actual = run_prefill(prefill, world.to(torch.float32, device), on(plan, device)).cpu()
    check_around_nan(actual, expected, **CLOSE)


@pytest.mark.skipif(not INTERPRETED, reason="counts calls inside of the kernels")
def test_tiles_outside_of_a_window_are_not_walked(monkeypatch):
    walked, one_tile = [], tiles.add_tile
    monkeypatch.setattr(tiles, "add_tile", lambda *args: walked.append(0) or one_tile(*args))

    def count(run, *args, **options):
        walked.clear()
        run(*args, 0.2, **options)
        return len(walked)

    cache, far = torch.randn(40, 16, 1, 16), PagedSpan(range(40), 0, 300, position=0)
    span = PagedSpan(range(40), 3, 620, position=1000)
    rows = torch.randn(1, 1, 16), cache, cache
    work = WorkList.from_spans([([0], far), ([0], span)], 1, 1000)
    step = {"positions": torch.tensor([1619])}
    assert count(decode.decode_attention_partials, *rows, work, **step) == 10 + 20  # of 32 tokens
    assert count(decode.decode_attention_partials, *rows, work, **step, window=40) == 2

    rows = torch.randn(32, 1, 16), cache, cache
    plan = PrefillPlan.from_segments([(PagedSpan(range(40), 588, 620, position=1000), [far])])
    # One program of 32 rows, in tiles of 16 tokens.
    assert count(prefill.prefill_attention, *rows, plan) == 19 + 39
    assert count(prefill.prefill_attention, *rows, plan, window=40) == 5  # 549 to 619


def test_windows_over_whole_tiles(dtype, device):
    """Long spans of which few tokens are seen, at positions that only their own list tells."""
    far, near = (1, 3, 190), (2, 0, 160)
    options = {"heads": (1, 2), "head_dim": 32, "positions": [400, 20, 270], "sinks": True}
    world = build_world([170, 190, 160], [[far, near]], 80, window=150, **options)
    check_prefill(world, [90], dtype, device)
    rows = {"row_positions": [500, 330, 160], "window": 150}
    world = build_world([170, 190, 160], [[far, near, (0, 5, 170)]] * 3, 3, **options, **rows)
    for work in (world.shared_work(128), world.private_work()):
        check_decode(world, work, dtype, device)


def test_long_prefill_masks_only_where_it_must(dtype, device):
    """Spans and chunk have full tiles and tails, the chunk a diagonal; no length divides by 16."""
    world = build_world([200, 131, 3], [[(1, 1, 131), (2, 0, 3)]], 90, heads=(1, 2), head_dim=32)
    check_prefill(world, [110], dtype, device)


@pytest.mark.parametrize("run", [decode.decode_attention_partials, prefill.prefill_attention])
def test_launchers_refuse_what_a_gpu_would(run, device):
    plan = WorkList.from_spans([([0], PagedSpan([0], 0, 1))], 1, split=4)

    def call(q, cache, scale=1.0):
        run(q.to(device), cache.to(device), cache.to(device), plan, scale)

    with pytest.raises(ValueError, match="head dim 8"):  # every side of tl.dot must be at least 16
        call(torch.zeros(1, 1, 8), torch.zeros(1, 16, 1, 8))
    with pytest.raises(ValueError, match="one dtype"):
        call(torch.zeros(1, 1, 16), torch.zeros(1, 16, 1, 16).half())
    with pytest.raises(ValueError, match="float64"):
        call(torch.zeros(1, 1, 16).double(), torch.zeros(1, 16, 1, 16).double())
    with pytest.raises(ValueError, match="contiguous"):
        call(torch.zeros(1, 1, 32)[..., ::2], torch.zeros(1, 16, 1, 16))
    with pytest.raises(ValueError, match="caches must be contiguous"):
        call(torch.zeros(1, 1, 16), torch.zeros(1, 16, 2, 16)[:, :, ::2])
    with pytest.raises(ValueError, match="positive"):
        call(torch.zeros(1, 1, 16), torch.zeros(1, 16, 1, 16), 0.0)
    with pytest.raises(ValueError, match="page size 12"):
        call(torch.zeros(1, 1, 16), torch.zeros(1, 12, 1, 16))
