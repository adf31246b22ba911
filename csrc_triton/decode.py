# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Decode attention: one launch over a work list, then one that merges each row's partials."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.checks import check_kernel_inputs
from csrc_triton.tiles import LOG2_E, attend, lanes_of_tile, tile_shape
from csrc_triton.worklist import WorkList


def decode_attention_partials(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, work: WorkList, scale: float
) -> tuple[Tensor, Tensor]:
    """Launch the work-list kernel; see `csrc_triton.decode_attention_partials`."""
    _, num_q_heads, head_dim = q.shape
    _, page_size, num_kv_heads, _ = k_cache.shape
    check_kernel_inputs(head_dim, q, k_cache, v_cache)
    group = num_q_heads // num_kv_heads
    lanes = work.max_rows_per_item * group
    block_d = triton.next_power_of_2(head_dim)
    shape = tile_shape(lanes, block_d, q.dtype)
    entries = work.row_ids.shape[0]
    out = torch.empty((entries, num_q_heads, head_dim), dtype=torch.float32, device=q.device)
    lse = torch.empty((entries, num_q_heads), dtype=torch.float32, device=q.device)
    _work_list_kernel[(work.items.shape[0], num_kv_heads, triton.cdiv(lanes, shape.block_m))](
        out,
        lse,
        q,
        k_cache,
        v_cache,
        work.items,
        work.num_items,
        work.row_ids,
        work.page_table,
        scale,
        q.stride(0),
        q.stride(1),
        num_kv_heads=num_kv_heads,
        group=group,
        head_dim=head_dim,
        page_size=page_size,
        block_m=shape.block_m,
        block_n=shape.block_n,
        block_d=block_d,
        num_warps=shape.num_warps,
    )
    return out, lse


def reduce_partials(
    partial_out: Tensor, partial_lse: Tensor, work: WorkList, dtype: torch.dtype
) -> Tensor:
    """Launch the merging kernel; see `csrc_triton.reduce_partials`."""
    _, num_q_heads, head_dim = partial_out.shape
    shape = (work.num_rows, num_q_heads, head_dim)
    out = torch.empty(shape, dtype=dtype, device=partial_out.device)
    _reduce_kernel[(work.num_rows, num_q_heads)](
        out,
        partial_out,
        partial_lse,
        work.partial_offsets,
        work.partial_ids,
        head_dim=head_dim,
        block_d=triton.next_power_of_2(head_dim),
        num_warps=1,
    )
    return out


@triton.jit
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
    index, kv_head, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if index >= tl.load(num_items_ptr):
        return
    item = items_ptr + index * 5
    entry_begin, entry_end = tl.load(item), tl.load(item + 1)
    if tile * block_m >= (entry_end - entry_begin) * group:
        return
    page_begin, kv_begin, kv_end = tl.load(item + 2), tl.load(item + 3), tl.load(item + 4)

    entry, head, exists = lanes_of_tile(tile, entry_begin, entry_end, kv_head, group, block_m)
    row = tl.load(row_ids_ptr + entry, mask=exists, other=0).to(tl.int64)
    dims = tl.arange(0, block_d)
    inside = exists[:, None] & (dims < head_dim)[None, :]
    q_place = row * q_row_stride + head * q_head_stride
    q = tl.load(q_ptr + q_place[:, None] + dims[None, :], mask=inside, other=0.0)

    top, total, acc = attend(
        q,
        tl.full([block_m], float("-inf"), tl.float32),
        tl.zeros([block_m], tl.float32),
        tl.zeros([block_m, block_d], tl.float32),
        page_table_ptr + page_begin,
        kv_begin,
        kv_end,
        tl.full([block_m], kv_end - 1, tl.int32),
        k_ptr,
        v_ptr,
        kv_head,
        scale,
        num_kv_heads,
        head_dim,
        page_size,
        block_n,
        block_d,
    )

    # An item without tokens leaves total = 0 and top = -inf: 0 and -inf go out.
    lse = (top + tl.log2(tl.where(total > 0, total, 1.0))) / LOG2_E
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    place = entry.to(tl.int64) * num_kv_heads * group + head
    tl.store(lse_ptr + place, lse, mask=exists)
    tl.store(out_ptr + place[:, None] * head_dim + dims[None, :], acc, mask=inside)


@triton.jit
def _reduce_kernel(
    out_ptr,
    partial_out_ptr,
    partial_lse_ptr,
    offsets_ptr,
    partial_ids_ptr,
    head_dim: tl.constexpr,
    block_d: tl.constexpr,
):
    row, head, num_heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    dims = tl.arange(0, block_d)
    inside = dims < head_dim
    # Finite from the start, so that an empty partial (-inf) gives exp(-inf) and never a nan.
    top = tl.full([], -3.0e38, tl.float32)
    total = tl.full([], 0.0, tl.float32)
    acc = tl.zeros([block_d], tl.float32)
    for i in range(tl.load(offsets_ptr + row), tl.load(offsets_ptr + row + 1)):
        place = tl.load(partial_ids_ptr + i).to(tl.int64) * num_heads + head
        lse = tl.load(partial_lse_ptr + place)
        partial = tl.load(partial_out_ptr + place * head_dim + dims, mask=inside, other=0.0)
        new_top = tl.maximum(top, lse)
        shrink, weight = tl.exp(top - new_top), tl.exp(lse - new_top)
        total = total * shrink + weight
        acc = acc * shrink + weight * partial
        top = new_top
    out = acc / tl.where(total > 0, total, 1.0)
    place = (row.to(tl.int64) * num_heads + head) * head_dim + dims
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=inside)
