"""What an accuracy run is asked: puzzles of the demo's family, or problems from a file."""

from __future__ import annotations

from pathlib import Path

from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.errors import InvalidRequest
from train.problems import Problem, load_problems


def puzzle_problems(stream: str, seed: int, count: int) -> list[Problem]:
    """Puzzles of a random stream ("train", "validation", "test"), grouped by length."""
    puzzles = sample_puzzles(stream, seed, count)
    return [
        Problem(f"{stream}-{seed}-{i}", puzzle.problem, puzzle.answer, size=puzzle.size)
        for i, puzzle in enumerate(puzzles)
    ]


def graded_problems(path: Path, size_field: str | None = None) -> list[Problem]:
    """Problems of a file, grouped by one of its fields.

    Raises:
        InvalidRequest: as `load_problems`, or a problem has no answer.
    """
    problems = load_problems(path, {"size": size_field} if size_field else None)
    for problem in problems:
        if problem.answer is None:
            raise InvalidRequest("data", f"{path}: problem {problem.id} has no answer")
    return problems
