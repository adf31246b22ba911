"""The findings of a part, on disk row by row, so that a part that dies leaves its findings."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.files import open_appended, read_jsonl

ROWS = "rows.jsonl"
TARGETS = "targets"
Row = dict[str, Any]
"""part, table and case, then figures by name. Three names have a meaning: `passed` is a check's
outcome, `failed` is an exception in short (`traceback` has all of it), `skipped` is the reason.
"""


class Record:
    """The rows of one part, which may take `seconds` seconds."""

    def __init__(self, part: str, out: Path, seconds: float) -> None:
        self._part = part
        self._file = out / ROWS
        self._deadline = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """Until the part should end; below zero once it should have."""
        return self._deadline - time.monotonic()

    def add(self, table: str, case: str, **figures: Any) -> None:
        """Write a row."""
        row: Row = {"part": self._part, "table": table, "case": case, **figures}
        with open_appended(self._file) as file:
            file.write(json.dumps(row) + "\n")

    def target(self, case: str, *, asked: float, measured: float) -> None:
        """Write a figure beside what is asked of it. A missed target is no failed check."""
        met = measured >= asked
        self.add(TARGETS, case, asked=asked, measured=measured, met=met)

    def attempt(self, table: str, case: str, run: Callable[[], Row | None]) -> None:
        """Run a case; write the figures that it returns, and the `seconds` that it took.

        A case is skipped once the time is over. If a case raises, the exception is written.
        """
        if self.seconds_left <= 0:
            self.add(table, case, skipped="no time left")
            return
        start = time.monotonic()
        try:
            figures = run()
        except Exception as error:
            self.fail(table, case, error)
        else:
            if figures is not None:
                self.add(table, case, **figures, seconds=time.monotonic() - start)

    def fail(self, table: str, case: str, error: BaseException) -> None:
        """Write an exception."""
        text = "".join(traceback.format_exception(error))
        short = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        self.add(table, case, failed=short, traceback=text[-8000:])


def read_rows(out: Path) -> list[Row]:
    """All rows so far; a last line that was cut off is left out."""
    file = out / ROWS
    return [line.row for line in read_jsonl(file, appended=True)] if file.exists() else []


def is_bad(row: Row) -> bool:
    """Whether a row says that something is wrong."""
    return "failed" in row or row.get("passed") is False


def line_of(row: Row) -> str:
    """A row on one line."""
    facts = [f"{name} {text_of(row[name])}" for name in figures_of(row)]
    return f"{row['table']}: {row['case']}: {', '.join(facts)}"


def figures_of(row: Row) -> list[str]:
    """The names of a row's figures; the traceback stands in the file only."""
    return [name for name in row if name not in ("part", "table", "case", "traceback")]


def text_of(value: Any) -> str:
    """A figure, short."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
