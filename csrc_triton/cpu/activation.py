"""SwiGLU."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import reference
from csrc_triton.cpu.library import library


def swiglu(gate_up: Tensor) -> Tensor:
    """See `csrc_triton.swiglu`."""
    kernels = library(gate_up.dtype)
    if kernels is None or not gate_up.numel():
        return reference.swiglu(gate_up)
    gate_up, size = gate_up.contiguous(), gate_up.shape[-1] // 2
    out = gate_up.new_empty((*gate_up.shape[:-1], size))
    kernels.swiglu(
        out.data_ptr(),
        gate_up.data_ptr(),
        out.numel() // size,
        size,
        torch.get_num_threads(),
    )
    return out
