"""What selfRef@k costs end to end, candidates generated: over a share of a run's problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.generator import Generator
from benchmarks.accuracy.journal import Journal
from benchmarks.accuracy.progress import AccuracyProgress
from benchmarks.samples.method import Method

COST_PROBLEMS = 256
"""Problems of the run at most."""
_REPEAT = 0  # one is enough: it is the cost, and not its spread


def costed_methods(methods: Sequence[Method], config: AccuracyConfig) -> list[Method]:
    """The methods whose cost is measured: greedy selfRef at the main k, in each layout."""
    return [
        one
        for one in methods
        if one.kind == "selfref" and one.k == config.headline and not one.temperature
    ]


def num_costed(
    methods: Sequence[Method], config: AccuracyConfig, journal: Journal, asked: Sequence[int]
) -> tuple[int, int]:
    """Solutions of the cost run, and those that the journal lacks."""
    costed = costed_methods(methods, config)
    each, problems = config.headline + 1, asked[:COST_PROBLEMS]
    missing = sum(len(journal.missing(_REPEAT, _name(one), problems)) for one in costed)
    return each * len(costed) * len(problems), each * missing


def measure_cost(
    method: Method,
    generator: Generator,
    config: AccuracyConfig,
    journal: Journal,
    asked: Sequence[int],
    progress: AccuracyProgress,
) -> None:
    """Fill the journal with the cost of each of the first problems."""
    todo = journal.missing(_REPEAT, _name(method), asked[:COST_PROBLEMS])
    progress.begin(_name(method), len(todo))
    with closing(generator.end_to_end_each(method, config.seed_of(_REPEAT), todo)) as each:
        for index, done in each:
            tokens = sum(one.tokens for one in (*done.candidates, done.answer))
            value = {"generated_tokens": tokens, "phases": done.phases}
            journal.add(_REPEAT, _name(method), index, value)
            progress.count([*done.candidates, done.answer], method.k + 1)


def total_cost(method: Method, journal: Journal, asked: Sequence[int]) -> dict[str, Any]:
    """Seconds and tokens of all of them, in total and by phase."""
    name, problems = _name(method), asked[:COST_PROBLEMS]
    lacking = set(journal.missing(_REPEAT, name, problems))
    costs = [journal.get(_REPEAT, name, index) for index in problems if index not in lacking]
    phases: dict[str, Counter[str]] = {}
    for cost in costs:
        for phase, counts in cost["phases"].items():
            phases.setdefault(phase, Counter()).update(counts)
    return {
        "problems": len(costs),
        # The shares of all requests add up to the time that the engine was busy.
        "seconds": sum(phase["seconds"] for phase in phases.values()),
        "generated_tokens": sum(cost["generated_tokens"] for cost in costs),
        "phases": {phase: dict(counts) for phase, counts in phases.items()},
    }


def _name(method: Method) -> str:
    return f"cost of {method.layout}"
