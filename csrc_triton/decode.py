# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Decode attention: one launch over a work list, then one that merges each row's partials.

As many programs as the GPU runs at once walk the items, so padding costs nothing: the number of
items lies on the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.checks import check_attention_inputs
from csrc_triton.merge import launch_merge
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

# Three narrow programs fit on a multiprocessor of an H100; the fourth starts as the first one ends.
_PROGRAMS = 4
# Stands in for the GPU's number where there is none.
_MULTIPROCESSORS = 132


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    work: WorkList,
    scale: float,
    window: int | None,
    positions: Tensor | None,
    sinks: Tensor | None,
    out: Tensor,
) -> None:
    """Launch both kernels; see `csrc_triton.decode_attention`."""
    partials = decode_attention_partials(q, k_cache, v_cache, work, scale, window, positions)
    _merge(*partials, work, sinks, out)


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
    tile = tile or decode_tile(lanes, block_d, q.dtype, q.device)
    entries = work.row_ids.shape[0]
    partial_out = torch.empty(
        (entries, num_q_heads, head_dim), dtype=torch.float32, device=q.device
    )
    partial_lse = torch.empty((entries, num_q_heads), dtype=torch.float32, device=q.device)
    tiles_per_item = triton.cdiv(lanes, tile.block_m)
    most = work.items.shape[0] * tiles_per_item * num_kv_heads
    _work_list_kernel[(min(most, num_programs(q.device)),)](
        partial_out,
        partial_lse,
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
    return partial_out, partial_lse


def reduce_partials(
    partial_out: Tensor,
    partial_lse: Tensor,
    work: WorkList,
    dtype: torch.dtype,
    sinks: Tensor | None = None,
) -> Tensor:
    """Launch the merging kernel; see `csrc_triton.reduce_partials`."""
    shape = (work.num_rows, *partial_out.shape[1:])
    out = torch.empty(shape, dtype=dtype, device=partial_out.device)
    _merge(partial_out, partial_lse, work, sinks, out)
    return out


def _merge(
    partial_out: Tensor, partial_lse: Tensor, work: WorkList, sinks: Tensor | None, out: Tensor
) -> None:
    launch_merge(partial_out, partial_lse, work.partial_ranges, work.partial_ids, sinks, out)


def num_programs(device: torch.device) -> int:
    """How many programs walk the items."""
    if device.type != "cuda":
        return _PROGRAMS * _MULTIPROCESSORS
    return _PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count


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
    partial_out_ptr,
    partial_lse_ptr,
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
    outputs = (partial_out_ptr, partial_lse_ptr)
    queries = (q_ptr, row_ids_ptr, q_row_stride, q_head_stride)
    # Neighbouring programs read the same cache lines: the kv heads of a token lie side by side in
    # memory, and all tiles of an item read the same tokens.
    work = tl.load(num_items_ptr) * tiles_per_item * num_kv_heads
    # What is hoisted out of this loop would occupy registers while an item is walked.
    for number in tl.range(tl.program_id(0), work, tl.num_programs(0), disable_licm=True):
        kv_head = number % num_kv_heads
        tile = number // num_kv_heads % tiles_per_item
        item = items_ptr + number // num_kv_heads // tiles_per_item * 6
        entry_begin, entry_end, page_begin = tl.load(item), tl.load(item + 1), tl.load(item + 2)
        kv_begin, kv_end = tl.load(item + 3), tl.load(item + 4)
        lanes = (entry_end - entry_begin) * group
        reach = None
        if window is not None:
            reach = (positions_ptr, window + tl.load(item + 5))
        heads = kv_head * head_dim
        cache = (k_ptr + heads, v_ptr + heads, page_table_ptr + page_begin)
        part = (tile, kv_head, entry_begin, entry_end, kv_begin, kv_end)
        # The lanes of one row leave a wide tile nearly empty, so the kernel holds both widths.
        if block_m > NARROW and lanes <= NARROW:
            if tile == 0:
                _attend_item(
                    outputs,
                    queries,
                    cache,
                    part,
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
        elif tile * block_m < lanes:
            _attend_item(
                outputs,
                queries,
                cache,
                part,
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
    partial_out_ptr, partial_lse_ptr = outputs
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
    tl.store(partial_lse_ptr + place, lse, mask=exists)
    tl.store(partial_out_ptr + place[:, None] * head_dim + dims[None, :], acc, mask=inside)
