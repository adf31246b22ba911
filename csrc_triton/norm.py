# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""RMSNorm, with the residual addition before it: one program per row, or per few narrow ones."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.checks import check_norm, require

# One program holds whole rows in registers.
_MAX_WIDTH = 32768
# A program takes several narrow rows (one head wide) together, up to this many numbers.
_NUMBERS = 2048


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Launch the kernel; see `csrc_triton.rms_norm`."""
    width = x.shape[-1]
    require(width <= _MAX_WIDTH, "rows of {} are wider than {}", width, _MAX_WIDTH)
    check_norm(x, weight)
    x_stride = width
    if x.dim() == 2 and x.stride(1) == 1:
        x_stride = x.stride(0)
    else:
        x = x.contiguous()
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    total = x if residual is None else torch.empty_like(y)
    rows, block = x.numel() // width, triton.next_power_of_2(width)
    block_rows = max(_NUMBERS // block, 1)
    _rms_norm_kernel[(triton.cdiv(rows, block_rows),)](
        y,
        total,
        x,
        x if residual is None else residual.contiguous(),
        weight.contiguous(),
        eps,
        rows,
        x_stride,
        width,
        has_residual=residual is not None,
        block_rows=block_rows,
        block=block,
        num_warps=min(max(block_rows * block // 512, 1), 16),
    )
    return y if residual is None else (y, total)


@triton.jit(do_not_specialize=["rows"])
def _rms_norm_kernel(
    y_ptr,
    total_ptr,
    x_ptr,
    residual_ptr,
    weight_ptr,
    eps,
    rows,
    x_stride,
    width,
    has_residual: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    columns = tl.arange(0, block)
    inside = (row < rows)[:, None] & (columns < width)[None, :]
    offsets = row.to(tl.int64)[:, None] * width + columns[None, :]
    x_offsets = row.to(tl.int64)[:, None] * x_stride + columns[None, :]
    x = tl.load(x_ptr + x_offsets, mask=inside, other=0.0)
    if has_residual:
        residual = tl.load(residual_ptr + offsets, mask=inside, other=0.0)
        # Rounded before it is normalised, because the next layer adds to the rounded sum.
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
        tl.store(total_ptr + offsets, x, mask=inside)
    wide = x.to(tl.float32)
    wide *= tl.rsqrt(tl.sum(wide * wide, 1) / width + eps)[:, None]
    weight = tl.load(weight_ptr + columns, mask=columns < width, other=0.0)[None, :]
    # Rounded to x's dtype before the weight, or only behind it if the weight is fp32.
    rounded = wide.to(weight.dtype).to(tl.float32)
    tl.store(y_ptr + offsets, (rounded * weight.to(tl.float32)).to(x.dtype), mask=inside)
