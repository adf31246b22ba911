"""A mixture of experts, which takes the place of an MLP."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from csrc_triton import (
    Gate,
    QuantizedWeight,
    Routing,
    grouped_linear,
    grouped_quantized_linear,
    has_cpu_kernels,
    pack_weight,
    quantize_weight,
    weighted_sum,
)
from gsr_engine.config import Quantization
from gsr_engine.model.linear import INT8_GROUP, Linear, PackedLinear

Weights = torch.Tensor | QuantizedWeight


@dataclass(frozen=True, slots=True)
class Experts:
    """Each row goes through the `top_k` experts that its router prefers, E in all.

    This is transformers' Qwen3MoeSparseMoeBlock. The router's softmax is fp32, and equal
    probabilities are chosen as `torch.topk` does. A row's experts are summed in fp32 in the order
    of the router's choice, and are rounded once. So a row's bits depend on that row alone, as far
    as those of the products do.

    Attributes:
        router: hidden states to a score for each expert, [E, hidden].
        gate_up: [E, 2 F, hidden], or packed: see `csrc_triton.grouped_linear`; or in 8 bits.
        down: [E, hidden, F], or packed; or in 8 bits.
        intermediate_size: F, the width of one expert.
        top_k: experts of a row.
        normalise: whether the weights of a row's experts sum to 1 (`norm_topk_prob`).
        gate: what the first half of an expert's gate_up does to the other.
    """

    router: Linear
    gate_up: Weights
    down: Weights
    intermediate_size: int
    top_k: int
    normalise: bool
    gate: Gate = "silu"

    @classmethod
    def of(
        cls,
        router: torch.Tensor,
        gate_up: Iterable[torch.Tensor],
        down: Iterable[torch.Tensor],
        *,
        top_k: int,
        normalise: bool,
        gate: Gate = "silu",
        runs_on: torch.device | None = None,
        quantization: Quantization = "none",
    ) -> Experts:
        """Experts of plain weights, laid out for a device.

        A CPU with kernels takes packed weights, in bf16 too: oneDNN would need a call for each
        expert. Each weight is read once, in the order of experts, and only one at a time is held
        beside the result.

        Args:
            router: [E, hidden]; its dtype and device are those of all weights.
            gate_up: E weights [2 F, hidden], gates first; an iterator may read them from a file.
            down: E weights [hidden, F].
            top_k: as in the class.
            normalise: as in the class.
            gate: as in the class.
            runs_on: the device whose layout the weights get; None: that which holds them.
            quantization: "int8" quantises the experts. The router keeps its dtype.

        Raises:
            ValueError: there are fewer or more than E weights, or their shapes differ.
        """
        device = runs_on or router.device
        packed = device.type == "cpu" and has_cpu_kernels(router.dtype)
        layout: Layout = _quantised if quantization == "int8" else pack_weight if packed else _plain
        experts = router.shape[0]
        first = _stacked(gate_up, experts, layout, gated=True)
        second = _stacked(down, experts, layout, gated=False)
        return cls(
            router=PackedLinear.of(router) if packed else Linear(router),
            gate_up=first,
            down=second,
            intermediate_size=second.inputs
            if isinstance(second, QuantizedWeight)
            else second.shape[2],
            top_k=top_k,
            normalise=normalise,
            gate=gate,
        )

    @property
    def bytes_per_row(self) -> int:
        """Those of the router and of `top_k` experts."""
        expert = sum(_numbers(weights)[0].nbytes for weights in (self.gate_up, self.down))
        return self.router.weight_bytes + self.top_k * expert

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply to [N, hidden]."""
        probabilities = torch.softmax(self.router(hidden), -1, dtype=torch.float32)
        weights, expert_ids = probabilities.topk(self.top_k)
        if self.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        routing = Routing.of(expert_ids, probabilities.shape[1])
        rows = _product(hidden, self.gate_up, routing, self.intermediate_size, self.gate)
        rows = _product(rows, self.down, routing, hidden.shape[1])
        return weighted_sum(rows, weights.to(hidden.dtype))


def _product(
    x: torch.Tensor, weights: Weights, routing: Routing, outputs: int, gate: Gate | None = None
) -> torch.Tensor:
    if isinstance(weights, QuantizedWeight):
        return grouped_quantized_linear(x, weights, routing, gate=gate)
    return grouped_linear(x, weights, routing, outputs, gate=gate)


class Layout(Protocol):
    """How the weight of one expert is laid out."""

    def __call__(self, weight: torch.Tensor, *, gated: bool) -> Weights:
        """A weight [out, in]; the first half of a gated one gates the other."""


def _plain(weight: torch.Tensor, *, gated: bool) -> torch.Tensor:
    return weight


def _quantised(weight: torch.Tensor, *, gated: bool) -> QuantizedWeight:
    return quantize_weight(weight, group=INT8_GROUP, gated=gated)


def _numbers(weights: Weights) -> torch.Tensor:
    return weights.data if isinstance(weights, QuantizedWeight) else weights


def _room(like: Weights, experts: int) -> Weights:
    """Room for so many weights of this layout and shape."""
    numbers = _numbers(like)
    room = numbers.new_empty((experts, *numbers.shape))
    return like.stacked(room) if isinstance(like, QuantizedWeight) else room


def _stacked(weights: Iterable[torch.Tensor], experts: int, layout: Layout, gated: bool) -> Weights:
    """The weights of all experts in one tensor, which is filled one by one."""
    stacked: Weights | None = None
    count = 0
    for weight in weights:  # enumerate would hold it while the next one is read
        count += 1
        laid_out = layout(weight, gated=gated)
        stacked = _room(laid_out, experts) if stacked is None else stacked
        places, numbers = _numbers(stacked), _numbers(laid_out)
        if count > experts or numbers.shape != places.shape[1:]:
            raise ValueError(f"weight {count} of {experts} experts is {tuple(weight.shape)}")
        places[count - 1] = numbers
        del weight, laid_out, numbers
    if stacked is None or count != experts:
        raise ValueError(f"{count} weights for {experts} experts")
    return stacked
