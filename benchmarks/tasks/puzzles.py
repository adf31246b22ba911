"""The project's own puzzles, of the stream that nothing is trained on or chosen by."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from benchmarks.tasks.task import BenchmarkProblem, Source
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.demo.puzzles import PuzzleStream, sample_puzzles
from gsr_engine.evaluation.grader import ExactGrader, Grader


def puzzle_problems(stream: PuzzleStream, seed: int, count: int) -> list[BenchmarkProblem]:
    """Puzzles of a random stream, grouped by length."""
    puzzles = sample_puzzles(stream, seed, count)
    return [
        BenchmarkProblem(
            id=f"{stream}-{seed}-{i}", text=puzzle.problem, gold=puzzle.answer, size=puzzle.size
        )
        for i, puzzle in enumerate(puzzles)
    ]


class Puzzles:
    """The task: 1,000 held-out puzzles, or as many as are asked for."""

    name = "puzzles"
    version = 1

    def load(self, source: Source) -> list[BenchmarkProblem]:
        """As of `Task`."""
        source.refuse(self.name, "data", "columns", "size_field", "split")
        return puzzle_problems("test", source.seed, source.count or 1000)

    def grader(self, gsr: GsrConfig) -> AbstractContextManager[Grader]:
        """Answers are compared exactly."""
        return nullcontext(ExactGrader())


PUZZLES = Puzzles()
