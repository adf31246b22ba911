# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""RMSNorm, with the residual addition before it: one program per row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.checks import require

# One program holds a whole row in registers.
_MAX_WIDTH = 32768


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Launch the kernel; see `csrc_triton.rms_norm`."""
    width = x.shape[-1]
    require(width <= _MAX_WIDTH, "rows of {} are wider than {}", width, _MAX_WIDTH)
    require(weight.dtype == x.dtype, "x is {}, its weight {}", x.dtype, weight.dtype)
    x = x.contiguous()
    y = torch.empty_like(x)
    total = x if residual is None else torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _rms_norm_kernel[(x.numel() // width,)](
        y,
        total,
        x,
        x if residual is None else residual.contiguous(),
        weight.contiguous(),
        eps,
        width,
        has_residual=residual is not None,
        block=block,
        num_warps=min(max(block // 512, 1), 16),
    )
    return y if residual is None else (y, total)


@triton.jit
def _rms_norm_kernel(
    y_ptr,
    total_ptr,
    x_ptr,
    residual_ptr,
    weight_ptr,
    eps,
    width,
    has_residual: tl.constexpr,
    block: tl.constexpr,
):
    columns = tl.arange(0, block)
    inside = columns < width
    offsets = tl.program_id(0).to(tl.int64) * width + columns
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
    if has_residual:
        residual = tl.load(residual_ptr + offsets, mask=inside, other=0.0)
        # Rounded before it is normalised: the sum is what the next layer adds to.
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
        tl.store(total_ptr + offsets, x, mask=inside)
    wide = x.to(tl.float32)
    wide *= tl.rsqrt(tl.sum(wide * wide, 0) / width + eps)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0)
    rounded = wide.to(x.dtype).to(tl.float32)
    tl.store(y_ptr + offsets, (rounded * weight.to(tl.float32)).to(x.dtype), mask=inside)
