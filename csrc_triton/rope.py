# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Rotary positions fused with the qk-norm and the store into pages: one program per row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.checks import check_contiguous, check_kernel_inputs, check_norms

# Pairs of dims for each warp, eight of them a thread.
_PAIRS = 8 * 32


def rope_and_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Launch the kernel; see `csrc_triton.rope_and_cache`."""
    rows, num_q_heads, head_dim = q.shape
    num_kv_heads = k.shape[1]
    check_kernel_inputs(head_dim, q, k, v, k_cache, v_cache)
    check_norms(q, q_norm, k_norm)
    check_contiguous(k_cache, v_cache)
    q_out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    block_q, block_half = triton.next_power_of_2(num_q_heads), triton.next_power_of_2(head_dim // 2)
    _rope_and_cache_kernel[(rows,)](
        q_out,
        q,
        k,
        v,
        cos_sin.contiguous(),
        positions,
        k_cache,
        v_cache,
        slot_mapping,
        None if q_norm is None else q_norm.contiguous(),
        None if k_norm is None else k_norm.contiguous(),
        eps,
        q.stride(0),
        q.stride(1),
        k.stride(0),
        k.stride(1),
        v.stride(0),
        v.stride(1),
        num_q_heads=num_q_heads,
        num_kv_heads=num_kv_heads,
        half=head_dim // 2,
        block_q=block_q,
        block_kv=triton.next_power_of_2(num_kv_heads),
        block_half=block_half,
        # A thread has eight pairs of q at most: more do not fit its registers.
        num_warps=min(max(block_q * block_half // _PAIRS, 4), 16),
    )
    return q_out


@triton.jit(do_not_specialize_on_alignment=["positions_ptr", "slots_ptr"])
def _rope_and_cache_kernel(
    q_out_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    cos_sin_ptr,
    positions_ptr,
    k_cache_ptr,
    v_cache_ptr,
    slots_ptr,
    q_norm_ptr,
    k_norm_ptr,
    eps,
    q_row_stride,
    q_head_stride,
    k_row_stride,
    k_head_stride,
    v_row_stride,
    v_head_stride,
    num_q_heads: tl.constexpr,
    num_kv_heads: tl.constexpr,
    half: tl.constexpr,
    block_q: tl.constexpr,
    block_kv: tl.constexpr,
    block_half: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, block_half)
    angles = cos_sin_ptr + tl.load(positions_ptr + row).to(tl.int64) * 2 * half + dims
    cos = tl.load(angles, mask=dims < half, other=0.0)[None, :]
    sin = tl.load(angles + half, mask=dims < half, other=0.0)[None, :]

    heads = tl.arange(0, block_q)
    inside = (heads < num_q_heads)[:, None] & (dims < half)[None, :]
    q = q_ptr + row * q_row_stride + heads[:, None] * q_head_stride + dims[None, :]
    first, second = _load_normed(q, q_norm_ptr, eps, dims, inside, half)
    first, second = first * cos - second * sin, second * cos + first * sin
    offset = (row * num_q_heads + heads[:, None]) * 2 * half + dims[None, :]
    _store_halves(q_out_ptr + offset, first, second, inside, half)

    heads = tl.arange(0, block_kv)
    # A row without a slot stores nothing. It reads all the same: loads then do not wait for slots.
    slot = tl.load(slots_ptr + row).to(tl.int64)
    inside = (heads < num_kv_heads)[:, None] & (dims < half)[None, :]
    stored = inside & (slot >= 0)
    offset = (slot * num_kv_heads + heads[:, None]) * 2 * half + dims[None, :]
    v = v_ptr + row * v_row_stride + heads[:, None] * v_head_stride + dims[None, :]
    v_first = tl.load(v, mask=inside, other=0.0)
    v_second = tl.load(v + half, mask=inside, other=0.0)
    _store_halves(v_cache_ptr + offset, v_first, v_second, stored, half)
    k = k_ptr + row * k_row_stride + heads[:, None] * k_head_stride + dims[None, :]
    first, second = _load_normed(k, k_norm_ptr, eps, dims, inside, half)
    first, second = first * cos - second * sin, second * cos + first * sin
    _store_halves(k_cache_ptr + offset, first, second, stored, half)


@triton.jit
def _load_normed(x, weight, eps, dims, inside, half: tl.constexpr):
    """The two halves of the heads at x, in fp32; normalised unless `weight` is None."""
    first = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + half, mask=inside, other=0.0).to(tl.float32)
    if weight is not None:
        mean = (tl.sum(first * first, 1) + tl.sum(second * second, 1)) / (2 * half)
        factor = tl.rsqrt(mean + eps)[:, None]
        there = dims < half
        dtype = x.dtype.element_ty
        some = tl.load(weight + dims, mask=there, other=0.0)
        first = _weighted(first * factor, some, dtype)
        some = tl.load(weight + half + dims, mask=there, other=0.0)
        second = _weighted(second * factor, some, dtype)
    return first, second


@triton.jit
def _weighted(normed, weight, dtype: tl.constexpr):
    """Normalised numbers times their weights, rounded to a dtype as rms_norm rounds."""
    rounded = normed.to(weight.dtype).to(tl.float32)
    return (rounded * weight.to(tl.float32)[None, :]).to(dtype).to(tl.float32)


@triton.jit
def _store_halves(pointer, first, second, inside, half: tl.constexpr):
    tl.store(pointer, first.to(pointer.dtype.element_ty), mask=inside)
    tl.store(pointer + half, second.to(pointer.dtype.element_ty), mask=inside)
