"""Small accuracy runs of a checkpoint, in this process or in one that a test kills."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.accuracy.__main__ import AccuracyCommand, main
from benchmarks.samples.folder import MEASURED, Run

EVERY = "greedy,selfref,fusion,repeated,rounds,orders,views,mixed"


def write_sums(file: Path, count: int = 3) -> Path:
    """Write a data set of sums."""
    rows = [{"id": f"p{i}", "problem": f"{i}+{i}", "answer": str(2 * i)} for i in range(count)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def accuracy(model: Path, data: Path, out: Path, **changed: Any) -> None:
    """Run the command over two of the sums."""
    options: dict[str, Any] = {
        "limit": 2,
        "k": "1,3",
        "max_tokens": 12,
        "seed": 3,
        "methods": "greedy,selfref,orders",
        "repeats": 2,
        "dtype": "float32",
        **changed,
    }
    main(AccuracyCommand(model=str(model), data=str(data), out=out, **options))


def unmeasured(run: Run) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What another run of the same settings must have, too: facts and samples."""
    facts = {name: value for name, value in run.facts.items() if name != "measured"}
    facts["settings"] = {**run.settings, "data": None}  # its digest says what it holds
    return facts, [_unmeasured(asdict(sample)) for sample in run.samples]


def _unmeasured(row: Any) -> Any:
    if isinstance(row, dict):
        return {name: _unmeasured(one) for name, one in row.items() if name not in MEASURED}
    return [_unmeasured(one) for one in row] if isinstance(row, list) else row
