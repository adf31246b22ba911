"""Counters of an engine: what its steps computed, and when it was busy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gsr_engine.outputs import Usage
from gsr_engine.plan import StepPlan


@dataclass(slots=True)
class Metrics:
    """Totals since the engine started.

    `usage.phases` counts the tokens and seconds of every step by phase; over finished requests
    the requests' own usages add up to it.
    """

    steps: int = 0
    busy_seconds: float = 0.0
    requests_finished: int = 0
    usage: Usage = field(default_factory=Usage)

    def record_step(self, plan: StepPlan, seconds: float) -> None:
        """Count one step, and give each request its share of it by tokens."""
        self.steps += 1
        self.busy_seconds += seconds
        for group, is_decode, tokens in plan.shares:
            phase = group.phases[is_decode]
            share = seconds * tokens / plan.num_tokens
            for usage in (group.request.usage, self.usage):
                count = usage.phase(phase)
                count.tokens_computed += tokens
                count.seconds += share

    def record_finished(self, usage: Usage) -> None:
        """Count a finished request: what only its end tells."""
        self.requests_finished += 1
        self.usage.prompt_tokens += usage.prompt_tokens
        self.usage.completion_tokens += usage.completion_tokens
        for name, phase in usage.phases.items():
            self.usage.phase(name).tokens_reused += phase.tokens_reused

    def as_dict(self) -> dict[str, Any]:
        """The counters as plain numbers."""
        return {
            "steps": self.steps,
            "busy_seconds": self.busy_seconds,
            "requests_finished": self.requests_finished,
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "phases": self.usage.as_dict(),
        }
