"""Products in 8 bits: exact sums of integers, and scales of rows and outputs."""

from __future__ import annotations

from torch import Tensor

from csrc_triton.checks import Gate, check_bias, check_gate, check_slots, require
from csrc_triton.cpu import quantized_linear as kernel
from csrc_triton.quantized import QuantizedWeight
from csrc_triton.routing import Routing

MOST_INPUTS = 1 << 17
"""The sum of the products of so many inputs fits in 32 bits: 127 * 127 * 2^17 < 2^31."""


def quantize_weight(
    weight: Tensor, *, group: int | None = None, gated: bool = False
) -> QuantizedWeight:
    """A weight [out, in] on a CPU in 8 bits, as `quantized_linear` reads it.

    Each output's scale is its greatest number / 127, for every `group` inputs; None is one group of
    all. The scale of numbers that are not all finite is a NaN.

    Args:
        weight: [out, in], fp32 or bf16; no copy of it is made unless its strides need one.
        group: a multiple of 4.
        gated: as for `pack_weight`.

    Raises:
        ValueError: the weight is no matrix, has more than 131,072 inputs (sums would overflow), the
            group is no multiple of 4, or there are no CPU kernels for the weight's dtype.
    """
    require(weight.dim() == 2, "a weight is [out, in], got {}", weight.shape)
    outputs, inputs = weight.shape
    require(0 < inputs <= MOST_INPUTS, "{} inputs are not 1 to {}", inputs, MOST_INPUTS)
    require(not gated or outputs % 2 == 0, "{} outputs of a gated weight are odd", outputs)
    whole = -(-inputs // 4) * 4
    size = whole if group is None else min(group, whole)
    require(size > 0 and size % 4 == 0, "group {} is no multiple of 4", group)
    return kernel.quantize_weight(weight, size, gated)


def dequantize_weight(weight: QuantizedWeight) -> Tensor:
    """The fp32 weight [out, in] that a weight in 8 bits stands for: integers times scales."""
    return kernel.dequantize_weight(weight)


def quantized_linear(
    x: Tensor, weight: QuantizedWeight, bias: Tensor | None, *, gate: Gate | None = None
) -> Tensor:
    """The product x Wᵀ + b in 8 bits, on a CPU; with a gate f, f(x Gᵀ) * (x Uᵀ).

    Each row of x gets a scale for every group of inputs, as the weight's outputs have: its greatest
    number / 127. The sum of a group's products is an exact integer. A row that is not all finite
    becomes NaN. The bits of a row depend neither on the other rows nor on their number.

    Args:
        x: [..., in].
        weight: what `quantize_weight` made on this machine; gated exactly if there is a gate.
        bias: [outputs] of x's dtype, or None; a gated weight has none.
        gate: what `gated_activation` applies behind the product.

    Returns:
        [..., outputs] like x.

    Raises:
        ValueError: shapes or dtypes disagree, there is no such gate, or there are no CPU kernels
            for x's dtype.
    """
    check_gate(gate)
    require(x.shape[-1] == weight.inputs, "x {} for {} inputs", x.shape, weight.inputs)
    require(weight.gated == (gate is not None), "gated is {}, gate {}", weight.gated, gate)
    check_bias(bias, x, weight.outputs, gate)
    return kernel.quantized_linear(x, weight, bias, gate)


def grouped_quantized_linear(
    x: Tensor, weights: QuantizedWeight, routing: Routing, *, gate: Gate | None = None
) -> Tensor:
    """The product of each slot's row with the weight of the slot's expert, as `quantized_linear`.

    Args:
        x: [N, in], the row of slot s is s // k; or [N * k, in], a row for each slot.
        weights: those of E experts: see `QuantizedWeight.stacked`.
        routing: the slots of each expert.
        gate: what `gated_activation` applies behind the product.

    Returns:
        [N * k, outputs], a row for each slot, in the order of slots.

    Raises:
        ValueError: as `quantized_linear`.
    """
    check_gate(gate)
    experts = routing.num_experts
    check_slots(x, routing.slots.shape[0], routing.top_k)
    fits = weights.data.dim() == 2 and weights.data.shape[0] == experts
    require(fits, "weights {} for {} experts", weights.data.shape, experts)
    require(x.shape[1] == weights.inputs, "x {} for {} inputs", x.shape, weights.inputs)
    require(weights.gated == (gate is not None), "gated is {}, gate {}", weights.gated, gate)
    return kernel.grouped_quantized_linear(x, weights, routing, gate)
