"""Norms and gates: every row on its own."""

from __future__ import annotations

from typing import overload

from torch import Tensor

from csrc_triton.checks import Gate, check_gate, check_norm, require
from csrc_triton.contracts import dispatch


@overload
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor: ...
@overload
def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor) -> tuple[Tensor, Tensor]: ...
def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Normalise the last dim by its root mean square, optionally after adding a residual.

    Args:
        x: [..., D]; over [N, H, D] it is the qk-norm of Qwen3. It may be a slice of wider rows.
        weight: [D], of x's dtype or fp32.
        eps: added to the mean square.
        residual: shaped like x.

    Returns:
        y like x; with a residual `(y, x + residual)`. The sum is rounded to x's dtype before it is
        normalised. The statistics are fp32. With a weight of x's dtype, y is rounded before it is
        multiplied by the weight: the arithmetic of transformers' Qwen2RMSNorm. With an fp32 weight
        the product is fp32 and is rounded once, as in Olmo2RMSNorm, and in Gemma3RMSNorm if the
        weight is 1 + w. For fp32 x both are the same.

    Raises:
        ValueError: shapes disagree, or the weight has another dtype.
    """
    check_norm(x, weight)
    require(residual is None or residual.shape == x.shape, "residual must be shaped like x")
    normed: Tensor | tuple[Tensor, Tensor]
    normed = dispatch.implementation(x, "norm").rms_norm(x, weight, eps, residual)
    return normed


def gated_activation(gate_up: Tensor, gate: Gate) -> Tensor:
    """f(x) * y for gate_up [..., 2F] = (x, y) -> [..., F]; f(x) is rounded before the product.

    Args:
        gate_up: x and y, one behind the other in the last dim.
        gate: f. `silu` is x / (1 + e^-x). `gelu_tanh` is x (1 + tanh t) / 2 with
            t = sqrt(2 / pi) (x + 0.044715 x^3).

    Raises:
        ValueError: the last dim is odd, or there is no such gate.
    """
    check_gate(gate)
    require(gate_up.shape[-1] % 2 == 0, "gate_up must have an even last dim: {}", gate_up.shape)
    activated: Tensor = dispatch.implementation(gate_up, "activation").gated_activation(
        gate_up, gate
    )
    return activated
