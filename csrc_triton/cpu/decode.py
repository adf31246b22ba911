"""Decode attention over a work list."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import reference
from csrc_triton.cpu.library import address, library
from csrc_triton.cpu.pages import MOST_DIMS, kernels_for
from csrc_triton.worklist import WorkList


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
    """See `csrc_triton.decode_attention`."""
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
) -> tuple[Tensor, Tensor]:
    """See `csrc_triton.decode_attention_partials`."""
    kernels = kernels_for(k_cache, v_cache, q)
    if kernels is None:
        return reference.decode_attention_partials(
            q, k_cache, v_cache, work, scale, window, positions
        )
    _, num_q_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    if positions is not None:
        positions = positions.long().contiguous()
    entries = work.row_ids.shape[0]
    out = q.new_empty((entries, num_q_heads, head_dim), dtype=torch.float32)
    lse = q.new_empty((entries, num_q_heads), dtype=torch.float32)
    kernels.decode_partials(
        out.data_ptr(),
        lse.data_ptr(),
        q.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        work.items.data_ptr(),
        work.row_ids.data_ptr(),
        work.page_table.data_ptr(),
        address(positions),
        int(work.num_items),
        q.stride(0),
        q.stride(1),
        num_kv_heads,
        num_q_heads // num_kv_heads,
        head_dim,
        window or 0,
        scale,
        torch.get_num_threads(),
    )
    return out, lse


def reduce_partials(
    partial_out: Tensor,
    partial_lse: Tensor,
    work: WorkList,
    dtype: torch.dtype,
    sinks: Tensor | None = None,
) -> Tensor:
    """See `csrc_triton.reduce_partials`."""
    shape = (work.num_rows, *partial_out.shape[1:])
    out = partial_out.new_empty(shape, dtype=dtype)
    _merge(partial_out, partial_lse, work, sinks, out)
    return out


def _merge(
    partial_out: Tensor, partial_lse: Tensor, work: WorkList, sinks: Tensor | None, out: Tensor
) -> None:
    _, num_q_heads, head_dim = partial_out.shape
    kernels = library(out.dtype) if head_dim <= MOST_DIMS else None
    if kernels is None:
        out.copy_(reference.reduce_partials(partial_out, partial_lse, work, out.dtype, sinks))
        return
    sinks = None if sinks is None else sinks.contiguous()
    kernels.merge_partials(
        out.data_ptr(),
        partial_out.data_ptr(),
        partial_lse.data_ptr(),
        address(sinks),
        work.partial_ranges.data_ptr(),
        work.partial_ids.data_ptr(),
        work.num_rows,
        num_q_heads,
        head_dim,
        torch.get_num_threads(),
    )
