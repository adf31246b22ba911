# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Prefill attention: a tile of one segment's rows walks its context's spans, then itself."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.checks import check_kernel_inputs
from csrc_triton.tiles import MAX_LANES, attend, lanes_of_tile, tile_shape
from csrc_triton.worklist import PrefillPlan


def prefill_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: PrefillPlan, scale: float
) -> Tensor:
    """Launch the kernel; see `csrc_triton.prefill_attention`."""
    _, num_q_heads, head_dim = q.shape
    _, page_size, num_kv_heads, _ = k_cache.shape
    check_kernel_inputs(head_dim, q, k_cache, v_cache)
    group = num_q_heads // num_kv_heads
    block_d = triton.next_power_of_2(head_dim)
    # The largest tile whatever the chunks are: a shape that followed the batch would recompile.
    shape = tile_shape(MAX_LANES, block_d, q.dtype)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    tiles = triton.cdiv(plan.max_seqlen_q * group, shape.block_m)
    _prefill_kernel[(tiles, num_kv_heads, plan.own.shape[0])](
        out,
        q,
        k_cache,
        v_cache,
        plan.cu_seqlens_q,
        plan.own,
        plan.span_offsets,
        plan.spans,
        plan.page_table,
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
    return out


@triton.jit
def _prefill_kernel(
    out_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    cu_seqlens_ptr,
    own_ptr,
    span_offsets_ptr,
    spans_ptr,
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
    tile, kv_head, segment = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row_begin = tl.load(cu_seqlens_ptr + segment)
    row_end = tl.load(cu_seqlens_ptr + segment + 1)
    if tile * block_m >= (row_end - row_begin) * group:
        return

    row, head, exists = lanes_of_tile(tile, row_begin, row_end, kv_head, group, block_m)
    dims = tl.arange(0, block_d)
    inside = exists[:, None] & (dims < head_dim)[None, :]
    q_place = row.to(tl.int64) * q_row_stride + head * q_head_stride
    q = tl.load(q_ptr + q_place[:, None] + dims[None, :], mask=inside, other=0.0)
    top = tl.full([block_m], float("-inf"), tl.float32)
    total = tl.zeros([block_m], tl.float32)
    acc = tl.zeros([block_m, block_d], tl.float32)

    span_end = tl.load(span_offsets_ptr + segment + 1)
    for i in range(tl.load(span_offsets_ptr + segment), span_end):
        stop = tl.load(spans_ptr + i * 3 + 2)
        top, total, acc = attend(
            q,
            top,
            total,
            acc,
            page_table_ptr + tl.load(spans_ptr + i * 3),
            tl.load(spans_ptr + i * 3 + 1),
            stop,
            tl.full([block_m], stop - 1, tl.int32),
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
    page_begin, computed = tl.load(own_ptr + segment * 2), tl.load(own_ptr + segment * 2 + 1)
    last_row = tl.minimum((tile * block_m + block_m - 1) // group, row_end - row_begin - 1)
    top, total, acc = attend(
        q,
        top,
        total,
        acc,
        page_table_ptr + page_begin,
        0,
        computed + last_row + 1,
        computed + row - row_begin,
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
    # Every row has seen itself, so the denominator is above zero.
    place = (row.to(tl.int64) * num_kv_heads * group + head) * head_dim
    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + place[:, None] + dims[None, :], out, mask=inside)
