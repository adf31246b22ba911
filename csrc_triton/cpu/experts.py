"""A mixture of experts: one call for the products of all experts, and the weighted sum."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import reference_experts as reference
from csrc_triton.checks import Gate
from csrc_triton.cpu.library import GATE_NUMBERS, library
from csrc_triton.routing import Routing

_PASS = 512  # rows that the kernel packs at once, at most


def grouped_linear(
    x: Tensor, weights: Tensor, routing: Routing, outputs: int, gate: Gate | None = None
) -> Tensor:
    """See `csrc_triton.grouped_linear`."""
    if weights.dim() == 3:
        return reference.grouped_linear(x, weights, routing, outputs, gate)
    kernels = library(x.dtype)
    if kernels is None:
        raise ValueError(f"there are no CPU kernels for packed weights of {x.dtype}")
    x, weights, inputs = x.contiguous(), weights.contiguous(), x.shape[1]
    slots, offsets = routing.slots.contiguous(), routing.offsets.contiguous()
    out = x.new_empty(slots.shape[0], outputs)
    scratch = x.new_empty(min(slots.shape[0], _PASS) * inputs, dtype=torch.float32)
    kernels.grouped_linear(
        out.data_ptr(),
        x.data_ptr(),
        weights.data_ptr(),
        slots.data_ptr(),
        offsets.data_ptr(),
        scratch.data_ptr(),
        routing.num_experts,
        out.shape[0] // max(x.shape[0], 1),
        inputs,
        outputs,
        GATE_NUMBERS[gate],
        torch.get_num_threads(),
    )
    return out


def weighted_sum(rows: Tensor, weights: Tensor) -> Tensor:
    """See `csrc_triton.weighted_sum`."""
    kernels = library(rows.dtype)
    if kernels is None:
        return reference.weighted_sum(rows, weights)
    rows, weights = rows.contiguous(), weights.contiguous()
    tokens, top_k = weights.shape
    out = rows.new_empty(tokens, rows.shape[1])
    kernels.weighted_sum(
        out.data_ptr(),
        rows.data_ptr(),
        weights.data_ptr(),
        tokens,
        top_k,
        rows.shape[1],
        torch.get_num_threads(),
    )
    return out
