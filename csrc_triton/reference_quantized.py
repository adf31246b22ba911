"""Plain-torch references of products in 8 bits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from csrc_triton.checks import Gate
from csrc_triton.reference import gated_activation

LEAST = 1e-30
"""Numbers that are all smaller count as 0: 127 over a smaller one could be infinite."""


def quantize(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Integers [rows, groups, group] as fp64, and their fp32 scales [rows, groups, 1].

    The last group is filled up with zeros. If a group is not all finite, its scale is a NaN.
    """
    groups = F.pad(x.float(), (0, -x.shape[1] % group)).unflatten(1, (-1, group))
    most = groups.abs().amax(-1, keepdim=True)
    scale = torch.where(most < LEAST, 0.0, most / 127)
    inverse = torch.where(most < LEAST, 0.0, torch.full_like(most, 127) / most)
    # The product is exact in fp64, and is rounded once.
    integers = (groups.double() * inverse.double()).round().nan_to_num(0)
    return integers, torch.where(most.isfinite(), scale, torch.nan)


def dequantize(integers: Tensor, scales: Tensor, inputs: int) -> Tensor:
    """The fp32 rows [rows, inputs] that `quantize` made integers of."""
    return (integers.float() * scales).flatten(1)[:, :inputs]


def quantized_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, group: int, gate: Gate | None = None
) -> Tensor:
    """The product of rows [rows, in] with a plain weight [out, in], both in 8 bits."""
    rows, row_scales = quantize(x, group)
    columns, column_scales = quantize(weight, group)
    y = torch.zeros(x.shape[0], weight.shape[0])
    for index in range(rows.shape[1]):
        sums = (rows[:, index] @ columns[:, index].T).float()  # fp64 holds these integers exactly
        y = y + sums * (column_scales[:, index].T * row_scales[:, index])
    if gate:
        return gated_activation(y.to(x.dtype), gate)
    return (y if bias is None else y + bias.float()).to(x.dtype)
