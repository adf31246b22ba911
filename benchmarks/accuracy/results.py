"""The samples file of a run: its table is computed from it, without a model.

JSON lines. The first line holds {"run": {...}}:

    settings    everything that shapes the samples: digests of weights, tokenizer and problems,
                sampling, dtype, quantization, hash of the template
    left_out    problems that could not be asked: [id, reason] of each; an id may repeat
    machine     hardware, versions and commit of the run that finished it
    measured    date, seconds and cost: what another run of the same settings measures otherwise

Each other line is one problem: its gold answer, every candidate, and the answer of each method.
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
    """One generated solution: its answer, and whether that is right.

    Attributes:
        tokens: generated, the end token included.
        token_ids: without the end token.
        error: why it failed; None if it did not.
    """

    text: str
    answer: str | None
    correct: bool
    tokens: int
    logprob: float = 0.0
    finish_reason: str = "stop"
    token_ids: list[int] = field(default_factory=list)
    error: str | None = None


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


def read_results(path: Path, name: str = "samples") -> tuple[dict[str, Any], list[ProblemResult]]:
    """The run's facts and its samples.

    Raises:
        InvalidRequest: `write_results` did not write this file; the message begins with `name`.
    """
    lines = list(read_jsonl(path, name))
    run = lines[0].row.get("run") if lines else None
    if not isinstance(run, dict) or not run.keys() >= {"settings", "left_out", "measured"}:
        raise InvalidRequest(name, f"{path} is not a samples file: it does not begin with a run")
    if len(lines) < 2:  # the run, and at least one problem
        raise InvalidRequest(name, f"{path} holds no problem")
    samples = []
    for where, row, *_ in lines[1:]:
        try:
            samples.append(_sample(row))
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest(name, f"{where} is not a problem's result: {error!r}") from None
    return run, samples


def _sample(raw: dict[str, Any]) -> ProblemResult:
    raw["candidates"] = [Solution(**stream) for stream in raw["candidates"]]
    raw["greedy"] = Solution(**raw["greedy"]) if raw["greedy"] else None
    raw["refinements"] = {name: Refinement(**r) for name, r in raw["refinements"].items()}
    return ProblemResult(**raw)
