"""Prefill attention over a plan."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import reference
from csrc_triton.cpu.library import address
from csrc_triton.cpu.pages import kernels_for
from csrc_triton.worklist import PrefillPlan


def prefill_tiling(num_q_heads: int, k_cache: Tensor) -> None:
    """The kernel cuts rows itself."""


def prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: PrefillPlan,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """See `csrc_triton.prefill_attention`."""
    kernels = kernels_for(k_cache, v_cache, q)
    if kernels is None:
        return reference.prefill_attention(q, k_cache, v_cache, plan, scale, window, sinks, out)
    _, num_q_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    sinks = None if sinks is None else sinks.contiguous()
    out = q.new_empty(q.shape) if out is None else out
    kernels.prefill(
        out.data_ptr(),
        q.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        plan.cu_seqlens_q.data_ptr(),
        plan.own.data_ptr(),
        plan.span_offsets.data_ptr(),
        plan.spans.data_ptr(),
        plan.page_table.data_ptr(),
        address(sinks),
        plan.own.shape[0],
        q.stride(0),
        q.stride(1),
        num_kv_heads,
        num_q_heads // num_kv_heads,
        head_dim,
        window or 0,
        scale,
        torch.get_num_threads(),
    )
    return out
