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
    others = weight if residual is None else residual
    if kernels is None or not weight.dtype == others.dtype == x.dtype:
        return reference.rms_norm(x, weight, eps, residual)
    x, weight, size = x.contiguous(), weight.contiguous(), x.shape[-1]
    out = torch.empty_like(x)
    if residual is not None:
        residual = residual.contiguous()
    summed = None if residual is None else torch.empty_like(x)
    kernels.rms_norm(
        out.data_ptr(),
        address(summed),
        x.data_ptr(),
        address(residual),
        weight.data_ptr(),
        x.numel() // size,
        size,
        eps,
        torch.get_num_threads(),
    )
    return out if summed is None else (out, summed)
