"""What a hostile file may hold, and what every refusal has in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsr_engine import GsrError

HUGE = "x" * 1_000_000
DEEP = "[" * 100_000 + "]" * 100_000
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 10**12, -(10**12), 10**400, 0.0, 0.5, -1.5, 1e-320, 1e308),
    *("", "default", "yarn", "llama3", "float32", "gsr", "(" * 200, "a{99999999999999}", HUGE),
    *([], [[]], [None], [1, 2], ["linear"], {}, {"a": {}}, {HUGE: 1}, [10**400] * 1000),
]
"""What may stand in the place of any value of a valid file."""


def assert_short(error: GsrError, folder: Path = Path("/nowhere")) -> None:
    """A message does not repeat a huge value; the folder may be long."""
    assert len(str(error).replace(str(folder), "")) < 400
