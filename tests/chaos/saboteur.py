"""A runner that computes with the real model, and breaks on demand where a device may break."""

from __future__ import annotations

from typing import Any

import torch

from gsr_engine.attention.paged_attention import PagedAttention
from gsr_engine.execution.runner import Launched, Runner
from gsr_engine.execution.sampler import Draws
from gsr_engine.model.weights import Renewal
from gsr_engine.step.batch import Batch
from gsr_engine.step.plan import StepPlan
from tests.chaos.actions import Fault
from tests.helpers.drafts import FREE

BROKEN = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be..."


class Saboteur:
    """A `StepRunner`; `fault` breaks the next step that computes anything."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._attention = BrokenAttention(runner.attention)
        runner.attention = self._attention  # type: ignore
        self._draw, runner.sampler.draw = runner.sampler.draw, self._sample  # type: ignore
        self.num_pages, self.lag, self.sharing = runner.num_pages, runner.lag, runner.sharing
        self.costs, self.graph_counts = FREE, None
        self.fault: Fault | None = None
        self.fault_row = 0
        self._now: Fault | None = None

    def launch(self, plan: StepPlan) -> Launched:
        fault, self.fault = self.fault, None
        if fault == self._now == "memory":  # a request alone is tried twice
            fault = None
        if fault == "launch":
            raise RuntimeError("the device is on fire")
        self._now = self._attention.fault = fault
        self._attention.row = self.fault_row % plan.num_tokens
        draws = self._runner.launch(plan)
        return Lost() if fault == "transfer" else draws

    def _sample(self, *args: Any) -> Any:
        if self._now == "sampling":
            raise RuntimeError("the dice are gone")
        if self._now == "broken":
            raise torch.AcceleratorError(BROKEN)
        return self._draw(*args)

    def use(self, renew: Renewal) -> None:
        self._runner.use(renew)

    def reset(self) -> None:
        self._runner.reset()


class Lost:
    """Draws that never arrive."""

    def wait(self) -> Draws:
        raise RuntimeError("the device burnt down")


class BrokenAttention:
    """A `PagedAttention` that may fail in the middle of the model."""

    def __init__(self, attention: PagedAttention) -> None:
        self._attention = attention
        self.fault: Fault | None = None
        self.row = 0

    def begin(self, batch: Batch) -> None:
        self._attention.begin(batch)

    def forward(self, layer: int, qkv: torch.Tensor, *norms: torch.Tensor | None) -> torch.Tensor:
        if layer == 1 and self.fault == "attention":
            raise RuntimeError("a kernel failed")
        if layer == 1 and self.fault == "interrupt":
            raise KeyboardInterrupt
        if layer == 1 and self.fault == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if layer == 1 and self.fault == "nan":
            qkv[self.row] = float("nan")
        return self._attention.forward(layer, qkv, *norms)

    def reset(self) -> None:
        self._attention.reset()
