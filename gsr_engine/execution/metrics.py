"""Counters of an engine: tokens computed and reused, steps, busy time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gsr_engine.outputs import Phase, Usage
from gsr_engine.step.plan import StepPlan


@dataclass(slots=True)
class Metrics:
    """Totals since the engine started.

    `usage.phases` counts the tokens and seconds of every step by phase. Once all requests are
    finished, their own usages add up to it.
    """

    steps: int = 0
    busy_seconds: float = 0.0
    requests_finished: int = 0
    usage: Usage = field(default_factory=Usage)

    def record_step(self, plan: StepPlan, seconds: float) -> None:
        """Count one step, and charge each request its share of the seconds, by tokens."""
        self.steps += 1
        self.busy_seconds += seconds
        seen: set[tuple[int, Phase]] = set()
        for group, is_decode, tokens in plan.shares:
            phase = group.phases[is_decode]
            share = seconds * tokens / plan.num_tokens
            first = (id(group.request), phase) not in seen
            seen.add((id(group.request), phase))
            for usage in (group.request.usage, self.usage):
                count = usage.phase(phase)
                count.tokens_computed += tokens
                count.seconds += share
                count.steps += first
                count.step_tokens += first * plan.num_tokens

    def record_finished(self, usage: Usage) -> None:
        """Count a finished request: its prompt, its completions and its reused tokens."""
        self.requests_finished += 1
        self.usage.prompt_tokens += usage.prompt_tokens
        self.usage.completion_tokens += usage.completion_tokens
        for name, phase in usage.phases.items():
            total = self.usage.phase(name)
            total.reused_cache += phase.reused_cache
            total.reused_prompt += phase.reused_prompt
            total.reused_candidates += phase.reused_candidates
            total.tokens_proposed += phase.tokens_proposed
            total.tokens_accepted += phase.tokens_accepted

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
