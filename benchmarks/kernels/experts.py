"""A mixture of experts: against single products, and what must be read and multiplied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

import csrc_triton
from benchmarks.kernels.rows import Emit, Row, collect, ignore
from benchmarks.kernels.timing import measure_limits, seconds
from csrc_triton import Routing


@dataclass(frozen=True, slots=True)
class ExpertsCase:
    """Tokens of one step through the experts of one layer: Qwen3-30B-A3B's sizes.

    Attributes:
        tokens: of the step.
        experts: in all.
        top_k: experts of a token, chosen at random.
        hidden: width of the residual stream.
        intermediate: width of an expert.
        dtype: of everything.
    """

    tokens: int
    experts: int = 128
    top_k: int = 8
    hidden: int = 2048
    intermediate: int = 768
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        return f"{self.tokens} x {self.top_k} of {self.experts}"


CASES = [ExpertsCase(tokens) for tokens in (1, 16, 64, 512, 8192)]
TINY = [ExpertsCase(tokens, 16, 4, 256, 96) for tokens in (1, 64)]


@dataclass(frozen=True, slots=True)
class ExpertsWorld:
    """Inputs of a case: weights as the device reads them, and which token goes where."""

    x: Tensor
    gate_up: Tensor
    down: Tensor
    routing: Routing
    weights: Tensor
    intermediate: int

    @classmethod
    def of(cls, case: ExpertsCase, device: str) -> ExpertsWorld:
        """Random numbers; the router is left out."""
        generator = torch.Generator(device).manual_seed(case.tokens)

        def stacked(outputs: int, inputs: int, gated: bool) -> Tensor:
            weights = torch.empty(case.experts, outputs, inputs, device=device, dtype=case.dtype)
            weights.normal_(std=inputs**-0.5, generator=generator)
            if torch.device(device).type != "cpu" or not csrc_triton.has_cpu_kernels(case.dtype):
                return weights
            return torch.stack([csrc_triton.pack_weight(one, gated=gated) for one in weights])

        scores = torch.rand(case.tokens, case.experts, generator=generator, device=device)
        weights, ids = scores.softmax(-1).topk(case.top_k)
        return cls(
            torch.randn(case.tokens, case.hidden, generator=generator, device=device).to(
                case.dtype
            ),
            stacked(2 * case.intermediate, case.hidden, gated=True),
            stacked(case.hidden, case.intermediate, gated=False),
            Routing.of(ids, case.experts),
            weights.to(case.dtype),
            case.intermediate,
        )

    def run(self) -> Tensor:
        """The three launches of a layer."""
        width, routing = self.intermediate, self.routing
        rows = csrc_triton.grouped_linear(self.x, self.gate_up, routing, width, gate="silu")
        rows = csrc_triton.grouped_linear(rows, self.down, routing, self.x.shape[1])
        return csrc_triton.weighted_sum(rows, self.weights)

    def one_by_one(self) -> Tensor:
        """The same by a loop over the experts that have rows."""
        out = torch.zeros_like(self.x, dtype=torch.float32)
        bounds, top_k = self.routing.offsets.tolist(), self.routing.top_k
        for expert in range(self.routing.num_experts):
            slots = self.routing.slots[bounds[expert] : bounds[expert + 1]]
            if len(slots):
                tokens = slots // top_k
                rows = self._multiplied(self.x[tokens], self.gate_up[expert], "silu")
                rows = self._multiplied(rows, self.down[expert], None)
                weights = self.weights.flatten()[slots]
                out.index_add_(0, tokens, rows.float() * weights[:, None].float())
        return out.to(self.x.dtype)

    def _multiplied(self, x: Tensor, weight: Tensor, gate: csrc_triton.Gate | None) -> Tensor:
        if weight.dim() == 3:
            outputs = self.intermediate if gate else self.x.shape[1]
            return csrc_triton.packed_linear(x, weight, None, outputs, gate=gate)
        product = F.linear(x, weight)
        return csrc_triton.gated_activation(product, gate) if gate else product


def measure_experts(
    device: str,
    quick: bool = False,
    cases: Sequence[ExpertsCase] | None = None,
    emit: Emit = ignore,
) -> list[Row]:
    """Time the experts of a layer for few and many tokens."""
    if cases is None:
        cases = TINY if device == "cpu" else CASES[::2] if quick else CASES
    named = [(str(case), case) for case in cases]
    return collect("experts", named, partial(_measure, device=device), emit)


def _measure(case: ExpertsCase, device: str) -> Row:
    world = ExpertsWorld.of(case, device)
    taken = seconds(world.run, device)
    bounds = world.routing.offsets.tolist()
    used = sum(begin < end for begin, end in pairwise(bounds))
    numbers = 3 * case.hidden * case.intermediate
    gbs = 1e-9 * used * numbers * case.dtype.itemsize / taken
    tflops = 2e-12 * case.tokens * case.top_k * numbers / taken
    limits = measure_limits(device)
    row = {
        "us": 1e6 * taken,
        "of_copy": gbs / limits.copy_gbs,
        "of_matmul": tflops / limits.matmul_tflops,
    }
    expected, found = world.one_by_one().float(), world.run().float()
    row["one_by_one_error"] = float((found - expected).norm() / expected.norm())
    if torch.device(device).type == "cpu":  # the loop reads counts back, so no graph can hold it
        row["one_by_one_ratio"] = seconds(world.one_by_one, device) / taken
    return row


def launching(case: ExpertsCase) -> Callable[[], object]:
    """The launches of a case with tensors that hold nothing yet, to be recorded."""
    world = ExpertsWorld(
        torch.empty(case.tokens, case.hidden, dtype=case.dtype),
        torch.empty(case.experts, 2 * case.intermediate, case.hidden, dtype=case.dtype),
        torch.empty(case.experts, case.hidden, case.intermediate, dtype=case.dtype),
        Routing.of(torch.zeros(case.tokens, case.top_k, dtype=torch.int64), case.experts),
        torch.empty(case.tokens, case.top_k, dtype=case.dtype),
        case.intermediate,
    )
    return world.run
