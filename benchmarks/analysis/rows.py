"""Rows of the main tables: a method, and a phase of what the engine measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.analysis.intervals import Interval, Resampling
from benchmarks.analysis.outcome import Outcome


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method: accuracy beside cost, means per problem.

    Attributes:
        name: what tables call it.
        family: the methods that differ from it in k alone.
        k: candidates that it reads.
        oracle: it knows which candidate is right: a bound, not a method.
        accuracy: with its interval.
        generated: tokens, those of the candidates included.
        prompt: tokens of all prompts, whoever computed them.
        total: tokens computed (see `outcome`).
        sequential: tokens generated one after the other.
        cut: share of the solutions it takes the answer from that were cut.
        unanswered: share of the problems without an answer; of pass@1 of the candidates.
        saved: share of the k candidates' tokens that it did not generate; None if it stops none.
    """

    name: str
    family: str
    k: int
    oracle: bool
    accuracy: Interval
    generated: float
    prompt: float
    total: float
    sequential: float
    cut: float
    unanswered: float
    saved: float | None


def method_rows(outcomes: Sequence[Outcome], resampling: Resampling) -> list[MethodRow]:
    """The row of each outcome."""
    accuracies = resampling.means([one.hits for one in outcomes])
    return [_row(one, mean) for one, mean in zip(outcomes, accuracies, strict=True)]


def _row(one: Outcome, accuracy: Interval) -> MethodRow:
    cost = one.cost
    return MethodRow(
        one.name,
        one.family,
        one.k,
        one.oracle,
        accuracy,
        float(cost.generated.mean()),
        float(cost.prompt.mean()),
        float(cost.total.mean()),
        float(cost.sequential.mean()),
        float(cost.cut.mean()),
        float(cost.unanswered.mean()),
        one.saved,
    )


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """A phase of selfRef@headline, measured end to end over `problems` problems."""

    layout: str
    phase: str
    problems: int
    computed: int
    reused: int
    seconds: float


def phase_costs(measured: dict[str, Any]) -> Iterator[PhaseCost]:
    """Phase by phase of each layout, from what a run measured."""
    for layout, cost in measured.get("cost", {}).items():
        for name, phase in cost["phases"].items():
            yield PhaseCost(
                layout,
                name,
                cost["problems"],
                phase["tokens_computed"],
                phase["tokens_reused"],
                phase["seconds"],
            )
