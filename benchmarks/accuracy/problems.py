"""What an accuracy run is asked: puzzles of the demo's family, or problems from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gsr_engine.demo.puzzles import PuzzleStream, sample_puzzles
from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.evaluator import Exercise
from train.problems import load_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkProblem(Exercise):
    """A problem with its gold answer; results are grouped by `size` ("": not grouped)."""

    id: str
    size: str = ""


def puzzle_problems(stream: PuzzleStream, seed: int, count: int) -> list[BenchmarkProblem]:
    """Puzzles of a random stream, grouped by length."""
    puzzles = sample_puzzles(stream, seed, count)
    return [
        BenchmarkProblem(
            id=f"{stream}-{seed}-{i}", text=puzzle.problem, gold=puzzle.answer, size=puzzle.size
        )
        for i, puzzle in enumerate(puzzles)
    ]


def graded_problems(
    path: Path, size_field: str | None = None, columns: Mapping[str, str] | None = None
) -> list[BenchmarkProblem]:
    """Problems of a file, grouped by one of its fields.

    Args:
        path: as of `load_problems`.
        size_field: column to group by; None groups by what `columns` says, if anything.
        columns: column by field, where the names differ.

    Raises:
        InvalidRequest: as `load_problems`, or a problem has no answer.
    """
    problems = []
    named = dict(columns or {}) | ({"size": size_field} if size_field else {})
    for number, problem in enumerate(load_problems(path, named), start=1):
        if problem.answer is None:
            raise InvalidRequest(
                "data", f"{path}: problem {number} (id {problem.id}) has no answer"
            )
        problems.append(
            BenchmarkProblem(
                id=problem.id, text=problem.text, gold=problem.answer, size=problem.size
            )
        )
    return problems
