"""Rotation of q and k after their optional norm, fused with the store of k and v into pages."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import reference
from csrc_triton.cpu.library import address
from csrc_triton.cpu.pages import kernels_for


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
    """See `csrc_triton.rope_and_cache`."""
    kernels = kernels_for(k_cache, v_cache, q, k, v)
    if kernels is None:
        return reference.rope_and_cache(
            q, k, v, cos_sin, positions, k_cache, v_cache, slot_mapping, q_norm, k_norm, eps
        )
    rows, num_q_heads, head_dim = q.shape
    # Converted tensors must live until the call ends.
    cos_sin, positions, slots = cos_sin.float(), positions.long(), slot_mapping.long()
    cos_sin, positions, slots = (x.contiguous() for x in (cos_sin, positions, slots))
    if q_norm is not None and k_norm is not None:
        q_norm, k_norm = q_norm.contiguous(), k_norm.contiguous()
    q_out = q.new_empty(q.shape)
    kernels.rope_and_cache(
        q_out.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        q.data_ptr(),
        k.data_ptr(),
        v.data_ptr(),
        address(q_norm),
        address(k_norm),
        cos_sin.data_ptr(),
        positions.data_ptr(),
        slots.data_ptr(),
        q_norm is not None and q_norm.dtype != q.dtype,
        rows,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        num_q_heads,
        k.shape[1],
        head_dim,
        eps,
        torch.get_num_threads(),
    )
    return q_out
