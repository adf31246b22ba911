"""Files for the builder's tests, and the command."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from train.build import main
from train.command import show_log


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """One object per line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def run_build(*arguments: str) -> str:
    """Run `train.build`; what it printed. An error is raised as it is."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        show_log()
        main(arguments)
    return " ".join(printed.getvalue().split())
