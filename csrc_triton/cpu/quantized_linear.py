"""Products with weights in 8 bits, and those weights."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton.checks import Gate
from csrc_triton.cpu.library import GATE_NUMBERS, Library, address, library
from csrc_triton.quantized import QuantizedWeight

_LANES = 16
_MOST_ROWS = 256  # that the kernel packs at once, at most


def _kernels(dtype: torch.dtype) -> Library:
    kernels = library(dtype)
    if kernels is None:
        raise ValueError(f"there are no CPU kernels for {dtype}")
    return kernels


def quantize_weight(weight: Tensor, group: int, gated: bool) -> QuantizedWeight:
    """See `csrc_triton.quantize_weight`."""
    weight = weight.contiguous()
    rows, inputs = weight.shape
    parts = 2 if gated else 1
    outputs = rows // parts
    blocks = -(-outputs // _LANES) * parts
    padded, groups = -(-inputs // 4) * 4, -(-inputs // group)
    bytes_ = torch.empty(blocks, padded, _LANES, dtype=torch.uint8)
    scales = torch.empty(blocks, groups, _LANES, dtype=torch.float32)
    _kernels(weight.dtype).quantize_weight(
        bytes_.data_ptr(),
        scales.data_ptr(),
        weight.data_ptr(),
        outputs,
        inputs,
        group,
        gated,
        torch.get_num_threads(),
    )
    return QuantizedWeight(bytes_, scales, outputs, inputs, group, gated)


def dequantize_weight(weight: QuantizedWeight) -> Tensor:
    """See `csrc_triton.dequantize_weight`."""
    rows = weight.outputs * (2 if weight.gated else 1)
    dense = torch.empty(rows, weight.inputs)
    _kernels(torch.float32).dequantize_weight(
        dense.data_ptr(),
        weight.bytes.data_ptr(),
        weight.scales.data_ptr(),
        weight.outputs,
        weight.inputs,
        weight.group,
        weight.gated,
        torch.get_num_threads(),
    )
    return dense


def quantized_linear(
    x: Tensor, weight: QuantizedWeight, bias: Tensor | None, gate: Gate | None
) -> Tensor:
    """See `csrc_triton.quantized_linear`."""
    kernels = _kernels(x.dtype)
    x, bias = x.contiguous(), None if bias is None else bias.contiguous()
    padded, groups = weight.bytes.shape[1], weight.scales.shape[1]
    rows = x.numel() // weight.inputs
    out = x.new_empty((*x.shape[:-1], weight.outputs))
    each = 2 * groups + padded  # scales, sums, and numbers of up to 4 bytes
    scratch = x.new_empty(min(rows, _MOST_ROWS) * each, dtype=torch.float32)
    kernels.quantized_linear(
        out.data_ptr(),
        x.data_ptr(),
        weight.bytes.data_ptr(),
        weight.scales.data_ptr(),
        address(bias),
        scratch.data_ptr(),
        rows,
        weight.inputs,
        weight.outputs,
        weight.group,
        GATE_NUMBERS[gate],
        torch.get_num_threads(),
    )
    return out
