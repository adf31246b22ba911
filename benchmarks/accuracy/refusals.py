"""What cannot be asked, found before the first token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.generator import Generator
from benchmarks.samples.method import Method
from benchmarks.tasks.task import BenchmarkProblem
from gsr_engine.errors import InvalidRequest


def refused_problems(
    generator: Generator, problems: Sequence[BenchmarkProblem], config: AccuracyConfig
) -> dict[int, str]:
    """Why problems cannot be asked, by index: what can be refused is, before the first token.

    Every method is tried at its largest k.

    Raises:
        InvalidRequest: not one problem can be asked; a setting is named, or the first one's error.
    """
    methods, draw = _hardest(config.chosen_methods(generator.layouts)), config.draw(0)
    refused = {}
    for index, problem in enumerate(problems):
        error = InvalidRequest("problem", problem.error) if problem.error else None
        error = error or generator.refusal(index, draw, methods)
        if error is not None:
            refused[index] = error
    if len(refused) == len(problems):
        for error in refused.values():
            if error.field not in ("problem", "prompt"):  # a setting, and not the problem
                raise error
        raise InvalidRequest("data", f"no problem can be asked; {problems[0].id}: {refused[0]}")
    return {index: str(error) for index, error in refused.items()}


def _hardest(methods: Sequence[Method]) -> list[Method]:
    """Of methods that ask alike the one with the most candidates."""
    largest: dict[Any, Method] = {}
    for one in sorted(methods, key=lambda method: method.k):
        largest[one.layout, one.template, one.view, one.widths, one.subset] = one
    return list(largest.values())
