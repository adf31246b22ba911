"""RMSNorm, with the residual addition before it."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import reference
from csrc_triton.cpu.library import address, library


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """See `csrc_triton.rms_norm`."""
    kernels = library(x.dtype)
    if kernels is None or (residual is not None and residual.dtype != x.dtype):
        return reference.rms_norm(x, weight, eps, residual)
    size = x.shape[-1]
    x_stride = size
    if x.dim() == 2 and x.stride(1) == 1:
        x_stride = x.stride(0)
    else:
        x = x.contiguous()
    weight = weight.contiguous()
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if residual is not None:
        residual = residual.contiguous()
    summed = None if residual is None else torch.empty_like(out)
    kernels.rms_norm(
        out.data_ptr(),
        address(summed),
        x.data_ptr(),
        address(residual),
        weight.data_ptr(),
        weight.dtype != x.dtype,
        x.numel() // size,
        x_stride,
        size,
        eps,
        torch.get_num_threads(),
    )
    return out if summed is None else (out, summed)
