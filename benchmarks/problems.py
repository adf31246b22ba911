"""What an accuracy run is asked: puzzles of the demo's family, or a local JSONL file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with its gold answer; `size` groups results, "" for no grouping."""

    id: str
    text: str
    gold: str
    size: str = ""


def puzzle_problems(stream: str, seed: int, count: int) -> list[Problem]:
    """Puzzles of a random stream ("train", "validation", "test"), grouped by length."""
    puzzles = sample_puzzles(stream, seed, count)
    return [
        Problem(f"{stream}-{seed}-{i}", puzzle.problem, puzzle.answer, puzzle.size)
        for i, puzzle in enumerate(puzzles)
    ]


def load_problems(path: Path, size_field: str | None = None) -> list[Problem]:
    """Problems of a JSONL file: objects with `problem` and `answer`, and `id` if they have one.

    Raises:
        InvalidRequest: a line is no such object.
    """
    problems = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                raw = json.loads(line)
                size = str(raw[size_field]) if size_field else ""
                name = str(raw.get("id", number))
                problems.append(Problem(name, str(raw["problem"]), str(raw["answer"]), size))
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                raise InvalidRequest("data", f"{path} line {number}: {error!r}") from None
    if not problems:
        raise InvalidRequest("data", f"{path} holds no problems")
    return problems
