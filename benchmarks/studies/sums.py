"""The task of the chat model's study: sums of two small numbers, which it solves now and then.

`python -m benchmarks.accuracy --task benchmarks/studies/sums.py --model FOLDER_OR_HUB_ID`
"""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, nullcontext

from benchmarks.tasks.task import BenchmarkProblem, Source
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.evaluation.grader import ExactGrader, Grader

_NUMBERS = range(2, 21)


class Sums:
    """The task: all 361 sums of two numbers from 2 to 20, or the first of a random order."""

    name = "sums"
    version = 1

    def load(self, source: Source) -> list[BenchmarkProblem]:
        """As of `Task`; grouped by how many numbers have two digits."""
        source.refuse(self.name, "data", "columns", "size_field", "split")
        pairs = [(left, right) for left in _NUMBERS for right in _NUMBERS]
        random.Random(source.seed).shuffle(pairs)
        return [
            BenchmarkProblem(
                id=f"{left}+{right}",
                text=f"What is {left} + {right}?",
                gold=str(left + right),
                size=f"{(left > 9) + (right > 9)} long",
            )
            for left, right in pairs[: source.count]
        ]

    def grader(self, gsr: GsrConfig) -> AbstractContextManager[Grader]:
        """Numbers are compared exactly."""
        return nullcontext(ExactGrader())


TASK = Sums()
