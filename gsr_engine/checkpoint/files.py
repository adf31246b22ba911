"""The folder of a checkpoint, local or from the hub, and its JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from gsr_engine.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return value


def find_checkpoint(
    path_or_id: str | Path, revision: str | None = None, *, weights: bool = True
) -> Path:
    """The local folder of a checkpoint; a hub id is downloaded (weights as safetensors only).

    Args:
        path_or_id: a folder or a hub id.
        revision: of the hub's repository.
        weights: False downloads only the small files: configuration, tokenizer, template.

    Raises:
        CheckpointError: it is neither a folder nor a repository that can be reached.
    """
    folder = Path(path_or_id)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or str(path_or_id).startswith(".") or str(path_or_id).count("/") > 1:
        raise CheckpointError(f"{path_or_id} is not a folder")
    try:
        return Path(
            snapshot_download(
                str(path_or_id),
                revision=revision,
                allow_patterns=["*.json", "*.jinja", *(["*.safetensors"] if weights else [])],
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path_or_id} is neither a local folder nor a hub repository within reach: {reason}"
        ) from None
