"""Files for the builder's tests, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from train.build import app


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """One object per line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def run_build(*arguments: str) -> str:
    """Run `train.build`; what it printed. An error is raised as it is."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())
