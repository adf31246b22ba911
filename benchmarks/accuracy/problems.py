"""What an accuracy run is asked: puzzles of the demo's family, or problems from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gsr_engine.demo.puzzles import PuzzleStream, sample_puzzles
from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.evaluator import Exercise
from train.problems import iterate_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkProblem(Exercise):
    """A problem with its gold answer; results are grouped by `size` ("": not grouped).

    `error` says why it cannot be asked; "" if it can.
    """

    id: str
    size: str = ""
    error: str = ""


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
        path: as of `iterate_problems`.
        size_field: column to group by; None groups by what `columns` says, if anything.
        columns: column by field, where the names differ.

    Raises:
        InvalidRequest: as `iterate_problems`, or there are none. A row that holds no problem or no
            answer is a problem with an error.
    """
    problems: list[BenchmarkProblem] = []

    def bad_row(where: str, reason: str) -> None:
        problems.append(BenchmarkProblem(id=where, text="", gold="", error=reason))

    named = dict(columns or {}) | ({"size": size_field} if size_field else {})
    for problem in iterate_problems(path, named, bad_row=bad_row):
        error = "it has no answer" if problem.answer is None else ""
        problems.append(
            BenchmarkProblem(
                id=problem.id,
                text=problem.text,
                gold=problem.answer or "",
                size=problem.size,
                error=error,
            )
        )
    if not problems:
        raise InvalidRequest("data", f"{path} holds no problems")
    return problems
