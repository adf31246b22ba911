"""The CPU kernels of attention and rope against the references, at sizes of real models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import csrc_triton
from csrc_triton import PagedSpan, PrefillPlan, WorkList, cache_views, reference
from csrc_triton.cpu.pages import kernels_for

pytestmark = pytest.mark.slow

# Query heads, kv heads, head dim: whole and partial vectors, groups, one tile and several.
HEADS = [(8, 4, 64), (14, 2, 64), (3, 1, 80), (2, 2, 256), (7, 1, 128), (40, 1, 32), (6, 1, 24)]
CLOSE = {
    torch.float32: {"atol": 3e-6, "rtol": 2e-5},
    torch.bfloat16: {"atol": 2e-2, "rtol": 2e-2},
}
by_kind = pytest.mark.parametrize("kind", CLOSE, ids=str)
by_heads = pytest.mark.parametrize("heads", HEADS, ids=str)


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def caches(heads: tuple[int, int, int], kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    _, kv_heads, head_dim = heads
    memory = torch.randn(2, 60, 16 * kv_heads * head_dim, generator=seeded(1)).to(kind)
    found = cache_views(memory[0], memory[1], 16, kv_heads, head_dim)
    assert kernels_for(*found) is not None  # else the reference tests itself
    return found


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def queries(rows: int, heads: tuple[int, int, int], kind: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, heads[0], heads[2], generator=seeded(2)).to(kind)


def decode_work() -> WorkList:
    """15 rows over shared spans that begin anywhere, and each over its own tokens."""
    shared = [
        (range(12), PagedSpan(list(range(40)), 5, 600, 3)),
        ([3, 14], PagedSpan(list(range(12, 20)), 0, 17)),
        ([4], PagedSpan(list(range(30)), 300, 300)),
    ]
    own = [([row], PagedSpan([40 + row], 0, row + 2, 600)) for row in range(14)]
    return WorkList.from_spans([*shared, *own], 16, 256)


@by_kind
@by_heads
@pytest.mark.parametrize("window", [None, 1, 90])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_decode(
    heads: tuple[int, int, int], kind: torch.dtype, window: int | None, with_sinks: bool
) -> None:
    k_cache, v_cache = caches(heads, kind)
    q, work, scale = queries(16, heads, kind), decode_work(), heads[2] ** -0.5
    positions = torch.randint(590, 640, (16,), generator=seeded(3))
    sinks = torch.randn(heads[0], generator=seeded(4)) if with_sinks else None
    found = csrc_triton.decode_attention(
        q, k_cache, v_cache, work, scale, window=window, positions=positions, sinks=sinks
    )
    partials = reference.decode_attention_partials(
        q, k_cache, v_cache, work, scale, window, positions
    )
    expected = reference.reduce_partials(*partials, work, kind, sinks)
    torch.testing.assert_close(found, expected, **CLOSE[kind])
    assert sinks is not None or not found[15].any()  # a row that sees nothing


def prefill_plan(begin: int = 3, end: int = 330) -> PrefillPlan:
    own = PagedSpan(list(range(21)), begin, end, 700)
    context = [PagedSpan(list(range(21, 60)), 2, 600), PagedSpan([7], 4, 9, 600)]
    return PrefillPlan.from_segments([(own, context), (PagedSpan([50, 51, 52], 0, 41), [])])


@by_kind
@by_heads
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_prefill(
    heads: tuple[int, int, int], kind: torch.dtype, window: int | None, with_sinks: bool
) -> None:
    k_cache, v_cache = caches(heads, kind)
    q, plan, scale = queries(327 + 41, heads, kind), prefill_plan(), heads[2] ** -0.5
    sinks = torch.randn(heads[0], generator=seeded(4)) if with_sinks else None
    options = {"window": window, "sinks": sinks}
    found = csrc_triton.prefill_attention(q, k_cache, v_cache, plan, scale, **options)
    expected = reference.prefill_attention(q, k_cache, v_cache, plan, scale, **options)
    torch.testing.assert_close(found, expected, **CLOSE[kind])


@by_heads
def test_bits_depend_neither_on_threads_nor_on_chunks_nor_on_company(
    heads: tuple[int, int, int], threads: int
) -> None:
    k_cache, v_cache = caches(heads, torch.float32)
    q, scale = queries(368, heads, torch.float32), heads[2] ** -0.5
    whole = csrc_triton.prefill_attention(q, k_cache, v_cache, prefill_plan(), scale)
    for begin, end in ((3, 4), (40, 290), (290, 330)):
        rows = torch.cat((q[begin - 3 : end - 3], q[327:]))
        some = csrc_triton.prefill_attention(
            rows, k_cache, v_cache, prefill_plan(begin, end), scale
        )
        assert torch.equal(some[: end - begin], whole[begin - 3 : end - 3])
        assert torch.equal(some[end - begin :], whole[327:])
    torch.set_num_threads(1)
    alone = csrc_triton.prefill_attention(q, k_cache, v_cache, prefill_plan(), scale)
    assert torch.equal(alone, whole)
    work = decode_work()
    decoded = csrc_triton.decode_attention(q[:16], k_cache, v_cache, work, scale)
    torch.set_num_threads(threads)
    assert torch.equal(csrc_triton.decode_attention(q[:16], k_cache, v_cache, work, scale), decoded)


@by_kind
@by_heads
@pytest.mark.parametrize("with_norms", [False, True])
def test_rope_reads_heads_out_of_one_product(
    heads: tuple[int, int, int], kind: torch.dtype, with_norms: bool
) -> None:
    num_heads, kv_heads, head_dim = heads
    rows = torch.randn(37, num_heads + 2 * kv_heads, head_dim, generator=seeded(5)).to(kind)
    q, k, v = rows.split([num_heads, kv_heads, kv_heads], dim=1)
    cos_sin = torch.randn(99, head_dim, generator=seeded(6))
    positions = torch.randint(0, 99, (37,), generator=seeded(7))
    slots = torch.randperm(60 * 16, generator=seeded(8))[:37]
    slots[5] = -1
    norms = [torch.randn(head_dim, generator=seeded(9)).to(kind) if with_norms else None] * 2
    mine, other = caches(heads, kind), [x.clone() for x in caches(heads, kind)]
    found = csrc_triton.rope_and_cache(
        q, k, v, cos_sin, positions, *mine, slots, q_norm=norms[0], k_norm=norms[1], eps=1e-6
    )
    expected = reference.rope_and_cache(q, k, v, cos_sin, positions, *other, slots, *norms, 1e-6)
    for ours, theirs in zip((found, *mine), (expected, *other), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE[kind])
