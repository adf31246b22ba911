"""Files that every stage reads and writes."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gsr_engine.checkpoint.files import read_json
from gsr_engine.errors import InvalidRequest


def fingerprint(settings: dict[str, Any], files: Iterable[Path]) -> str:
    """SHA-256 of settings and of the files' contents, whatever their names and dates."""
    whole = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def is_done(card: Path, expected: str) -> bool:
    """Whether a card tells of a build with this fingerprint."""
    return card.is_file() and read_json(card).get("fingerprint") == expected


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest("config", f"{path}: {error}") from None


Located = tuple[str, dict[str, Any]]
"""Where a row is, for messages, and the row."""


def read_jsonl(path: Path) -> Iterator[Located]:
    """The objects of a JSONL file; blank lines are skipped.

    Raises:
        InvalidRequest: a line is no object; the message names file and line.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InvalidRequest("data", f"{where}: {error}") from None
            if not isinstance(row, dict):
                raise InvalidRequest("data", f"{where}: must be an object, got {line:.100}")
            yield where, row
