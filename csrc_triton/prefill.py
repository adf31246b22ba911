# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Prefill attention: a tile of one segment's rows walks its context's spans, then itself."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.checks import check_attention_inputs
from csrc_triton.merge import launch_merge
from csrc_triton.tiles import (
    LOG2_E,
    WIDEST_WINDOW,
    Tile,
    attend,
    lanes_of_tile,
    nothing_seen,
    prefill_tile,
)
from csrc_triton.tiling import Tiling
from csrc_triton.worklist import PrefillPlan


def prefill_tiling(num_q_heads: int, k_cache: Tensor) -> Tiling:
    """See `csrc_triton.prefill_tiling`."""
    num_kv_heads, head_dim = k_cache.shape[2:]
    tile = prefill_tile(triton.next_power_of_2(head_dim), k_cache.dtype, k_cache.device)
    return Tiling(num_q_heads // num_kv_heads, num_kv_heads, tile.block_m)


def prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: PrefillPlan,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
    out: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """Launch the kernel; see `csrc_triton.prefill_attention`.

    `tile` overrides the tuned table; benchmarks find the table's entries with it.
    """
    _, num_q_heads, head_dim = q.shape
    _, page_size, num_kv_heads, _ = k_cache.shape
    check_attention_inputs(q, k_cache, v_cache, scale)
    group = num_q_heads // num_kv_heads
    block_d = triton.next_power_of_2(head_dim)
    tile = tile or prefill_tile(block_d, q.dtype, q.device)
    tiles = plan.tiled(Tiling(group, num_kv_heads, tile.block_m))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    sinks = None if sinks is None else sinks.contiguous()
    shape = max(1, *(part.num_entries for part in tiles.parts)), num_q_heads
    partial_out = torch.empty((*shape, head_dim), dtype=torch.float32, device=q.device)
    partial_lse = torch.empty(shape, dtype=torch.float32, device=q.device)
    for part in tiles.parts:
        some = tiles.tiles[part.tiles]
        _prefill_kernel[(some.shape[0] * num_kv_heads,)](
            out,
            partial_out,
            partial_lse,
            q,
            k_cache,
            v_cache,
            plan.cu_seqlens_q,
            plan.own,
            tiles.spans,
            plan.page_table,
            some,
            sinks,
            None if window is None else min(window, WIDEST_WINDOW),
            scale * LOG2_E.value,
            q.stride(0),
            q.stride(1),
            num_kv_heads=num_kv_heads,
            group=group,
            head_dim=head_dim,
            page_size=page_size,
            block_d=block_d,
            **tile._asdict(),
        )
        if part.num_entries:
            lists = tiles.partial_ranges[part.ranges], tiles.partial_ids
            launch_merge(partial_out, partial_lse, *lists, sinks, out[part.rows])
    return out


@triton.jit(
    do_not_specialize=["window"],
    do_not_specialize_on_alignment=[
        "cu_seqlens_ptr",
        "own_ptr",
        "spans_ptr",
        "page_table_ptr",
        "tiles_ptr",
    ],
)
def _prefill_kernel(
    out_ptr,
    partial_out_ptr,
    partial_lse_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    cu_seqlens_ptr,
    own_ptr,
    spans_ptr,
    page_table_ptr,
    tiles_ptr,
    sinks_ptr,
    window,
    scale,
    q_row_stride,
    q_head_stride,
    num_kv_heads: tl.constexpr,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    page_size: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    kv_head = tl.program_id(0) % num_kv_heads
    part = tiles_ptr + tl.program_id(0) // num_kv_heads * 6
    segment, tile = tl.load(part), tl.load(part + 1)
    context_end, own_begin, entry = tl.load(part + 3), tl.load(part + 4), tl.load(part + 5)
    row_begin = tl.load(cu_seqlens_ptr + segment)
    row_end = tl.load(cu_seqlens_ptr + segment + 1)

    row, head, exists = lanes_of_tile(tile, row_begin, row_end, kv_head, group, block_m)
    dims = tl.arange(0, block_d)
    inside = exists[:, None] & (dims < head_dim)[None, :]
    q_place = row.to(tl.int64) * q_row_stride + head * q_head_stride
    q = tl.load(q_ptr + q_place[:, None] + dims[None, :], mask=inside, other=0.0)
    keys, values = k_ptr + kv_head * head_dim, v_ptr + kv_head * head_dim
    own = own_ptr + segment * 3
    page_begin, computed, position = tl.load(own), tl.load(own + 1), tl.load(own + 2)
    token = computed + row - row_begin
    first_row = tile * block_m // group
    last_row = tl.minimum((tile * block_m + block_m - 1) // group, row_end - row_begin - 1)
    top, total, acc = nothing_seen(block_m, block_d)
    if sinks_ptr is not None and entry < 0:  # like a token without a value that every row sees
        top = tl.load(sinks_ptr + head) * LOG2_E
        total += 1.0
    # The segment itself is the last round of the same loop. With two loops that share accumulators
    # the compiler would not let wgmma run ahead in either of them.
    rounds_end = context_end + (own_begin >= 0).to(tl.int32)
    for i in range(tl.load(part + 2), rounds_end):
        in_context, span = i < context_end, spans_ptr + i * 4
        stop = tl.load(span + 2, mask=in_context, other=computed + last_row + 1)
        first_seen = None
        if window is not None:
            # Token t of the span is seen if the row's position - (the span's + t) < window.
            behind = position - tl.load(span + 3, mask=in_context, other=position)
            first_seen = token + behind - window + 1
        top, total, acc = attend(
            q,
            (top, total, acc),
            (keys, values, page_table_ptr + tl.load(span, mask=in_context, other=page_begin)),
            tl.load(span + 1, mask=in_context, other=own_begin),
            stop,
            tl.where(in_context, stop, computed + first_row + 1),
            tl.where(in_context, stop - 1, token),
            first_seen,
            scale,
            num_kv_heads * head_dim,
            head_dim,
            page_size,
            block_n,
            block_d,
        )
    # In a section a window may hide all tokens from a row: 0 and -inf.
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    if entry < 0:
        place = (row.to(tl.int64) * num_kv_heads * group + head) * head_dim
        out = acc.to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + place[:, None] + dims[None, :], out, mask=inside)
    else:
        place = (entry + row - row_begin).to(tl.int64) * num_kv_heads * group + head
        lse = (top + tl.log2(tl.where(total > 0, total, 1.0))) / LOG2_E
        tl.store(partial_lse_ptr + place, lse, mask=exists)
        tl.store(partial_out_ptr + place[:, None] * head_dim + dims[None, :], acc, mask=inside)
