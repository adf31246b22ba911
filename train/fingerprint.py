"""What a build depends on, in one string: settings and the bytes of its inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gsr_engine.checkpoint.files import read_json


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
