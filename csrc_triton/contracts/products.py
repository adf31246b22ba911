"""Products with weights in a layout of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton.checks import Gate, check_bias, check_gate, require
from csrc_triton.cpu import linear
from csrc_triton.cpu.library import library


def has_cpu_kernels(dtype: torch.dtype) -> bool:
    """Whether CPU tensors of a dtype go to compiled kernels; the first call compiles them.

    They are there for fp32 and bf16, unless they cannot be compiled: then one warning says why.
    """
    return library(dtype) is not None


def pack_weight(weight: Tensor, *, gated: bool = False) -> Tensor:
    """A weight [out, in] on a CPU as `packed_linear` reads it: [blocks, in, 16].

    A gated one has gates in its first half: [2 F, in].
    """
    return linear.pack_weight(weight, gated)


def packed_linear(
    x: Tensor, packed: Tensor, bias: Tensor | None, outputs: int, *, gate: Gate | None = None
) -> Tensor:
    """The product x Wᵀ + b with a packed weight, on a CPU; with a gate f, f(x Gᵀ) * (x Uᵀ).

    The bits of a row depend neither on the other rows nor on their number.

    Args:
        x: [..., in].
        packed: what `pack_weight` made, of x's dtype; gated exactly if there is a gate.
        bias: [outputs] or None; a gated weight has none.
        outputs: the last dim of the result: out, or F of a gated weight.
        gate: what `gated_activation` applies behind the product.

    Returns:
        [..., outputs] like x.

    Raises:
        ValueError: shapes or dtypes disagree, there is no such gate, or there are no CPU kernels
            for x's dtype.
    """
    check_gate(gate)
    require(packed.dim() == 3 and x.shape[-1] == packed.shape[1], "x {}, packed {}", x, packed)
    size = -(-outputs // packed.shape[2]) * (2 if gate else 1)
    require(size == packed.shape[0], "{} outputs of {} blocks", outputs, packed.shape[0])
    require(packed.dtype == x.dtype, "packed is {}, x is {}", packed.dtype, x.dtype)
    check_bias(bias, x, outputs, gate)
    return linear.linear(x, packed, bias, outputs, gate)
