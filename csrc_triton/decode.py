# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Decode attention: one launch over a work list, then one that merges each row's partials."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.checks import check_attention_inputs
from csrc_triton.tiles import (
    LOG2_E,
    NARROW,
    WIDEST_WINDOW,
    Tile,
    attend,
    decode_tile,
    lanes_of_tile,
    nothing_seen,
)
from csrc_triton.worklist import WorkList


def decode_attention_partials(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    work: WorkList,
    scale: float,
    window: int | None = None,
    positions: Tensor | None = None,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """Launch the work-list kernel; see `csrc_triton.decode_attention_partials`.

    `tile` overrides the tuned table; benchmarks find the table's entries with it.
    """
    _, num_q_heads, head_dim = q.shape
    _, page_size, num_kv_heads, _ = k_cache.shape
    check_attention_inputs(q, k_cache, v_cache, scale)
    group = num_q_heads // num_kv_heads
    lanes = work.max_rows_per_item * group
    block_d = triton.next_power_of_2(head_dim)
    tile = tile or decode_tile(lanes, block_d, q.dtype)
    entries = work.row_ids.shape[0]
    out = torch.empty((entries, num_q_heads, head_dim), dtype=torch.float32, device=q.device)
    lse = torch.empty((entries, num_q_heads), dtype=torch.float32, device=q.device)
    tiles_per_item = triton.cdiv(lanes, tile.block_m)
    _work_list_kernel[(work.items.shape[0] * tiles_per_item * num_kv_heads,)](
        out,
        lse,
        q,
        k_cache,
        v_cache,
        work.items,
        work.num_items,
        work.row_ids,
        work.page_table,
        None if window is None else positions,
        None if window is None else min(window, WIDEST_WINDOW),
        scale * LOG2_E.value,
        tiles_per_item,
        q.stride(0),
        q.stride(1),
        num_kv_heads=num_kv_heads,
        group=group,
        head_dim=head_dim,
        page_size=page_size,
        block_d=block_d,
        **tile._asdict(),
    )
    return out, lse


def reduce_partials(
    partial_out: Tensor,
    partial_lse: Tensor,
    work: WorkList,
    dtype: torch.dtype,
    sinks: Tensor | None = None,
) -> Tensor:
    """Launch the merging kernel; see `csrc_triton.reduce_partials`."""
    _, num_q_heads, head_dim = partial_out.shape
    shape = (work.num_rows, num_q_heads, head_dim)
    out = torch.empty(shape, dtype=dtype, device=partial_out.device)
    block_d = triton.next_power_of_2(head_dim)
    _reduce_kernel[(work.num_rows * num_q_heads,)](
        out,
        partial_out,
        partial_lse,
        work.partial_ranges,
        work.partial_ids,
        None if sinks is None else sinks.contiguous(),
        num_heads=num_q_heads,
        head_dim=head_dim,
        few=512 // block_d,
        many=2048 // block_d,  # 64 numbers in flight to each thread of one warp
        block_d=block_d,
        num_warps=1,
    )
    return out


@triton.jit(
    do_not_specialize=["window", "tiles_per_item"],
    do_not_specialize_on_alignment=[
        "items_ptr",
        "num_items_ptr",
        "row_ids_ptr",
        "page_table_ptr",
        "positions_ptr",
    ],
)
def _work_list_kernel(
    out_ptr,
    lse_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    items_ptr,
    num_items_ptr,
    row_ids_ptr,
    page_table_ptr,
    positions_ptr,
    window,
    scale,
    tiles_per_item,
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
    # Neighbouring programs read the same cache lines: the kv heads of a token lie side by side in
    # memory, and all tiles of an item read the same tokens.
    program = tl.program_id(0)
    kv_head = program % num_kv_heads
    tile = program // num_kv_heads % tiles_per_item
    index = program // num_kv_heads // tiles_per_item
    item = items_ptr + index * 6
    num_items = tl.load(num_items_ptr)
    entry_begin, entry_end, page_begin = tl.load(item), tl.load(item + 1), tl.load(item + 2)
    kv_begin, kv_end = tl.load(item + 3), tl.load(item + 4)
    lanes = (entry_end - entry_begin) * group
    if (index >= num_items) | (tile * block_m >= lanes):
        return
    queries = (q_ptr, row_ids_ptr, q_row_stride, q_head_stride)
    reach = None
    if window is not None:
        reach = (positions_ptr, window + tl.load(item + 5))
    cache = (k_ptr + kv_head * head_dim, v_ptr + kv_head * head_dim, page_table_ptr + page_begin)
    item = (tile, kv_head, entry_begin, entry_end, kv_begin, kv_end)
    # The lanes of one row leave a wide tile nearly empty, so the kernel holds both widths.
    if block_m > NARROW and lanes <= NARROW:
        _attend_item(
            (out_ptr, lse_ptr),
            queries,
            cache,
            item,
            reach,
            scale,
            num_kv_heads,
            group,
            head_dim,
            page_size,
            NARROW,
            block_n,
            block_d,
        )
    else:
        _attend_item(
            (out_ptr, lse_ptr),
            queries,
            cache,
            item,
            reach,
            scale,
            num_kv_heads,
            group,
            head_dim,
            page_size,
            block_m,
            block_n,
            block_d,
        )


@triton.jit
def _attend_item(
    outputs,
    queries,
    cache,
    item,
    reach,
    scale,
    num_kv_heads: tl.constexpr,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    page_size: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """Attention of one tile of an item's lanes over all tokens of the item; stores the partials."""
    out_ptr, lse_ptr = outputs
    q_ptr, row_ids_ptr, q_row_stride, q_head_stride = queries
    tile, kv_head, entry_begin, entry_end, kv_begin, kv_end = item
    entry, head, exists = lanes_of_tile(tile, entry_begin, entry_end, kv_head, group, block_m)
    row = tl.load(row_ids_ptr + entry, mask=exists, other=0).to(tl.int64)
    dims = tl.arange(0, block_d)
    inside = exists[:, None] & (dims < head_dim)[None, :]
    q_place = row * q_row_stride + head * q_head_stride
    q = tl.load(q_ptr + q_place[:, None] + dims[None, :], mask=inside, other=0.0)

    first_seen = None
    if reach is not None:
        # Lanes behind the last row stand where the first row does, so they see no other tokens.
        positions_ptr, window = reach
        row = tl.where(exists, row, tl.load(row_ids_ptr + entry_begin))
        first_seen = tl.load(positions_ptr + row).to(tl.int32) - window + 1
    top, total, acc = attend(
        q,
        nothing_seen(block_m, block_d),
        cache,
        kv_begin,
        kv_end,
        kv_end,
        tl.full([block_m], kv_end - 1, tl.int32),
        first_seen,
        scale,
        num_kv_heads * head_dim,
        head_dim,
        page_size,
        block_n,
        block_d,
    )
    # A lane that saw no token has total = 0 and top = -inf: out becomes 0 and lse -inf.
    lse = (top + tl.log2(tl.where(total > 0, total, 1.0))) / LOG2_E
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    place = entry.to(tl.int64) * num_kv_heads * group + head
    tl.store(lse_ptr + place, lse, mask=exists)
    tl.store(out_ptr + place[:, None] * head_dim + dims[None, :], acc, mask=inside)


@triton.jit(do_not_specialize_on_alignment=["ranges_ptr", "partial_ids_ptr"])
def _reduce_kernel(
    out_ptr,
    partial_out_ptr,
    partial_lse_ptr,
    ranges_ptr,
    partial_ids_ptr,
    sinks_ptr,
    num_heads: tl.constexpr,
    head_dim: tl.constexpr,
    few: tl.constexpr,
    many: tl.constexpr,
    block_d: tl.constexpr,
):
    row, head = tl.program_id(0) // num_heads, tl.program_id(0) % num_heads
    begin, end = tl.load(ranges_ptr + 2 * row), tl.load(ranges_ptr + 2 * row + 1)
    partials = (partial_out_ptr, partial_lse_ptr, partial_ids_ptr)
    # Finite from the start, so that an empty partial (-inf) weighs exp(-inf) = 0, never nan.
    top = tl.full([], -3.0e38, tl.float32)
    total = tl.full([], 0.0, tl.float32)
    acc = tl.zeros([block_d], tl.float32)
    if sinks_ptr is not None:  # a token without a value; -inf counts nothing
        sink = tl.load(sinks_ptr + head)
        top = tl.maximum(top, sink)
        total = tl.exp(sink - top)
    # Most rows have few partials. The many partials of a long context are read in larger blocks.
    if end - begin <= few:
        top, total, acc = _merge(
            (top, total, acc), partials, begin, end, head, num_heads, head_dim, few, block_d
        )
    else:
        for first in range(begin, end, many):
            top, total, acc = _merge(
                (top, total, acc), partials, first, end, head, num_heads, head_dim, many, block_d
            )
    out = acc / tl.where(total > 0, total, 1.0)
    dims = tl.arange(0, block_d)
    place = tl.program_id(0).to(tl.int64) * head_dim + dims
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=dims < head_dim)


@triton.jit
def _merge(
    state,
    partials,
    first,
    end,
    head,
    num_heads: tl.constexpr,
    head_dim: tl.constexpr,
    block_p: tl.constexpr,
    block_d: tl.constexpr,
):
    """Merge the next block of one head's partials into (maximum, denominator, numerator)."""
    top, total, acc = state
    out_ptr, lse_ptr, ids_ptr = partials
    place = first + tl.arange(0, block_p)
    there = place < end
    place = tl.load(ids_ptr + place, mask=there, other=0).to(tl.int64) * num_heads + head
    lse = tl.load(lse_ptr + place, mask=there, other=float("-inf"))
    dims = tl.arange(0, block_d)
    out = tl.load(
        out_ptr + place[:, None] * head_dim + dims[None, :],
        mask=there[:, None] & (dims < head_dim)[None, :],
        other=0.0,
    )
    new_top = tl.maximum(top, tl.max(lse, 0))
    shrink, weights = tl.exp(top - new_top), tl.exp(lse - new_top)
    total = total * shrink + tl.sum(weights, 0)
    return new_top, total, acc * shrink + tl.sum(weights[:, None] * out, 0)
