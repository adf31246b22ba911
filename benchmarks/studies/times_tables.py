"""The task of the chat model's study: sums and products that it gets right now and then.

`python -m benchmarks.accuracy --task benchmarks/studies/times_tables.py --model FOLDER_OR_HUB_ID`
"""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, nullcontext

from benchmarks.tasks.task import BenchmarkProblem, Source
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.evaluation.grader import ExactGrader, Grader

_NUMBERS = range(2, 13)


class TimesTables:
    """The task: all sums and products of two numbers from 2 to 12, in a random order."""

    name = "times-tables"
    version = 1

    def load(self, source: Source) -> list[BenchmarkProblem]:
        """As of `Task`; grouped into sums and products."""
        source.refuse(self.name, "data", "columns", "size_field", "split")
        problems = [
            BenchmarkProblem(
                id=f"{left} {word} {right}",
                text=f"What is {left} {word} {right}?",
                gold=str(left + right if word == "plus" else left * right),
                size="sum" if word == "plus" else "product",
            )
            for left in _NUMBERS
            for right in _NUMBERS
            for word in ("plus", "times")
        ]
        random.Random(source.seed).shuffle(problems)
        return problems[: source.count]

    def grader(self, gsr: GsrConfig) -> AbstractContextManager[Grader]:
        """Numbers are compared exactly."""
        return nullcontext(ExactGrader())


TASK = TimesTables()
