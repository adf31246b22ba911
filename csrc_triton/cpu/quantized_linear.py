"""Products with weights in 8 bits, and those weights."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton.checks import Gate
from csrc_triton.cpu.library import GATE_NUMBERS, Library, address, library
from csrc_triton.quantized import QuantizedWeight
from csrc_triton.routing import Routing

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
    made = QuantizedWeight.empty(rows // 2 if gated else rows, inputs, group, gated)
    _kernels(weight.dtype).quantize_weight(*_numbers(made), weight.data_ptr(), *_sizes(made))
    return made


def dequantize_weight(weight: QuantizedWeight) -> Tensor:
    """See `csrc_triton.dequantize_weight`."""
    dense = torch.empty(weight.outputs * (2 if weight.gated else 1), weight.inputs)
    kernels = _kernels(torch.float32)
    kernels.dequantize_weight(dense.data_ptr(), *_numbers(weight), *_sizes(weight))
    return dense


def quantized_linear(
    x: Tensor, weight: QuantizedWeight, bias: Tensor | None, gate: Gate | None
) -> Tensor:
    """See `csrc_triton.quantized_linear`."""
    kernels = _kernels(x.dtype)
    x, bias = x.contiguous(), None if bias is None else bias.contiguous()
    rows = x.numel() // weight.inputs
    out = x.new_empty((*x.shape[:-1], weight.outputs))
    scratch = _scratch(x, weight, rows)
    kernels.quantized_linear(
        out.data_ptr(),
        x.data_ptr(),
        *_numbers(weight),
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


def grouped_quantized_linear(
    x: Tensor, weights: QuantizedWeight, routing: Routing, gate: Gate | None
) -> Tensor:
    """See `csrc_triton.grouped_quantized_linear`."""
    kernels, x = _kernels(x.dtype), x.contiguous()
    slots, offsets = routing.slots.contiguous(), routing.offsets.contiguous()
    out = x.new_empty(slots.shape[0], weights.outputs)
    scratch = _scratch(x, weights, slots.shape[0])
    kernels.grouped_quantized_linear(
        out.data_ptr(),
        x.data_ptr(),
        weights.data.data_ptr(),
        slots.data_ptr(),
        offsets.data_ptr(),
        scratch.data_ptr(),
        routing.num_experts,
        weights.data.shape[1],
        weights.scales_begin,
        slots.shape[0] // max(x.shape[0], 1),
        weights.inputs,
        weights.outputs,
        weights.group,
        GATE_NUMBERS[gate],
        torch.get_num_threads(),
    )
    return out


def _scratch(x: Tensor, weight: QuantizedWeight, rows: int) -> Tensor:
    each = 2 * weight.groups + weight.padded  # scales, sums, and numbers of up to 4 bytes
    return x.new_empty(min(rows, _MOST_ROWS) * each, dtype=torch.float32)


def _numbers(weight: QuantizedWeight) -> tuple[int, int]:
    begin = weight.data.data_ptr()
    return begin, begin + weight.scales_begin


def _sizes(weight: QuantizedWeight) -> tuple[int, int, int, bool, int]:
    threads = torch.get_num_threads()
    return weight.outputs, weight.inputs, weight.group, weight.gated, threads
