"""Gates."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import reference
from csrc_triton.checks import Gate
from csrc_triton.cpu.library import GATE_NUMBERS, library


def gated_activation(gate_up: Tensor, gate: Gate) -> Tensor:
    """See `csrc_triton.gated_activation`."""
    kernels = library(gate_up.dtype)
    if kernels is None or not gate_up.numel():
        return reference.gated_activation(gate_up, gate)
    gate_up, size = gate_up.contiguous(), gate_up.shape[-1] // 2
    out = gate_up.new_empty((*gate_up.shape[:-1], size))
    kernels.gated_activation(
        out.data_ptr(),
        gate_up.data_ptr(),
        out.numel() // size,
        size,
        GATE_NUMBERS[gate],
        torch.get_num_threads(),
    )
    return out
