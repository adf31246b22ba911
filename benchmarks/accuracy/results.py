"""The samples file of a run: its table is computed from it, without a model.

JSON lines. The first line holds {"run": {...}}: settings, environment, cost. Each other line is one
problem: its gold answer, every candidate, and the answer of each method.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gsr_engine.errors import InvalidRequest
from train.files import read_jsonl, whole_file


@dataclass(slots=True)
class Solution:
    """One generated solution: its answer, and whether that is right."""

    text: str
    answer: str | None
    correct: bool
    tokens: int
    logprob: float = 0.0
    finish_reason: str = "stop"


@dataclass(slots=True)
class Refinement(Solution):
    """A refined solution, and the candidates that it read in the order it read them."""

    used: list[int] = field(default_factory=list)


@dataclass(slots=True)
class ProblemResult:
    """One problem.

    Attributes:
        size: results are grouped by it (puzzle length, level); "" for no grouping.
        candidates: drawn at the candidate temperature; a method at k reads the first k.
        greedy: the direct solution at temperature 0.
        refinements: method name (`linear@4`, `branched@4 T=1`, ...) to its solution.
    """

    id: str
    problem: str
    gold: str
    size: str
    candidates: list[Solution]
    greedy: Solution | None = None
    refinements: dict[str, Refinement] = field(default_factory=dict)


def write_results(path: Path, run: dict[str, Any], samples: Iterable[ProblemResult]) -> None:
    """Write a samples file; it appears when it is whole."""
    with whole_file(path) as file:
        file.write(json.dumps({"run": run}, ensure_ascii=False) + "\n")
        for sample in samples:
            file.write(json.dumps(asdict(sample), ensure_ascii=False) + "\n")


def read_results(path: Path) -> tuple[dict[str, Any], list[ProblemResult]]:
    """The run's settings and its samples.

    Raises:
        InvalidRequest: `write_results` did not write this file.
    """
    try:
        first, *rows = [line.row for line in read_jsonl(path, "samples")]
        return first["run"], [_sample(row) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest("samples", f"{path} is not a samples file: {error!r}") from None


def _sample(raw: dict[str, Any]) -> ProblemResult:
    raw["candidates"] = [Solution(**stream) for stream in raw["candidates"]]
    raw["greedy"] = Solution(**raw["greedy"]) if raw["greedy"] else None
    raw["refinements"] = {name: Refinement(**r) for name, r in raw["refinements"].items()}
    return ProblemResult(**raw)
