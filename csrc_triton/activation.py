# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Gates: one program per row and block of columns."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.checks import Gate

_BLOCK = 1024


def gated_activation(gate_up: Tensor, gate: Gate) -> Tensor:
    """Launch the kernel; see `csrc_triton.gated_activation`."""
    gate_up = gate_up.contiguous()
    width = gate_up.shape[-1] // 2
    out = gate_up.new_empty((*gate_up.shape[:-1], width))
    grid = (gate_up[..., 0].numel(), triton.cdiv(width, _BLOCK))
    _gated_activation_kernel[grid](out, gate_up, width, gate=gate, block=_BLOCK)
    return out


@triton.jit
def _gated_activation_kernel(out_ptr, gate_up_ptr, width, gate: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    gates = tl.load(gate_up_ptr + row * 2 * width + columns, mask=inside, other=0.0)
    up = tl.load(gate_up_ptr + row * 2 * width + width + columns, mask=inside, other=0.0)
    tl.store(out_ptr + row * width + columns, gated(gates, up, gate), inside)


@triton.jit
def gated(x, up, gate: tl.constexpr):
    """f(x) * up in their dtype; f(x) is rounded to it before the product.

    Both gates are x times a sigmoid: x (1 + tanh t) / 2 is x sigmoid(2t).
    """
    wide = x.to(tl.float32)
    inner = wide
    if gate == "gelu_tanh":
        inner = 1.5957691216057308 * (wide + 0.044715 * wide * wide * wide)
    activated = (wide * tl.sigmoid(inner)).to(x.dtype).to(tl.float32)
    return (activated * up.to(tl.float32)).to(x.dtype)
