"""Where a checkpoint lies (a folder, a repository of the hub, a GGUF file), and its JSON files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from gsr_engine.errors import CheckpointError, InvalidRequest, shown

MOST_JSON_BYTES = 1 << 24
"""Largest JSON file that is read: the index of the largest models has half of this."""

SMALL_FILES = (
    *("config.json", "generation_config.json", "gsr.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja"),
    "additional_chat_templates/*.jinja",
)
"""What a checkpoint holds beside its weights, for this engine and for transformers."""
INDEX = "model.safetensors.index.json"
GGUF = ".gguf"


def is_gguf(checkpoint: Path) -> bool:
    """Whether a checkpoint is a GGUF file; every other one is a folder."""
    return checkpoint.suffix.lower() == GGUF and not checkpoint.is_dir()


def beside(checkpoint: Path, name: str) -> Path:
    """Where a JSON file of a checkpoint lies: in its folder, or as `X.NAME` beside `X.gguf`."""
    return checkpoint.with_suffix(f".{name}") if is_gguf(checkpoint) else checkpoint / name


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, whose numbers are all finite.

    Raises:
        CheckpointError: the file is missing, larger than `MOST_JSON_BYTES`, or holds something
            else.
    """
    try:
        value = json.loads(
            _read(path).decode(), parse_constant=_finite_number, parse_float=_finite_number
        )
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}") from None
    except RecursionError:
        raise CheckpointError(f"{path} cannot be read as JSON: it is nested too deeply") from None
    except (OSError, ValueError) as error:  # not UTF-8, not JSON, an integer without end
        raise CheckpointError(f"{path} cannot be read as JSON: {error!s:.200}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {shown(value)}")
    return value


def _read(path: Path) -> bytes:
    """The bytes of an ordinary file; a pipe or a device might never end."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no ordinary file")
    with path.open("rb") as file:
        content = file.read(MOST_JSON_BYTES + 1)
    if len(content) > MOST_JSON_BYTES:
        raise ValueError(f"it is larger than {MOST_JSON_BYTES} bytes")
    return content


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shown(text)} is no finite number")
    return value


def find_checkpoint(
    path_or_id: str | Path, revision: str | None = None, *, weights: bool = True
) -> Path:
    """The local folder or GGUF file of a checkpoint.

    Of a hub id what is read is downloaded, and no more.

    Args:
        path_or_id: a folder, a GGUF file or a hub id.
        revision: of the hub's repository.
        weights: False downloads only the small files: configuration, tokenizer, template.

    Raises:
        CheckpointError: it is neither a folder, nor a GGUF file, nor a repository that can be
            reached.
        InvalidRequest: it, or the revision, is no text.
    """
    if not isinstance(revision, str | None):
        raise InvalidRequest("revision", f"must be a text, got {shown(revision)}")
    return _find("path_or_id", path_or_id, partial(_download, revision=revision, weights=weights))


def find_adapter(path_or_id: str | Path) -> Path:
    """The local folder of a LoRA adapter; of a hub id its newest commit is downloaded.

    Raises:
        CheckpointError: it is neither a folder nor a repository that can be reached.
        InvalidRequest: it is no text.
    """
    return _find("adapter", path_or_id, _download_adapter)


def _find(field: str, path_or_id: str | Path, download: Callable[[str], Path]) -> Path:
    if not isinstance(path_or_id, str | Path):
        raise InvalidRequest(field, f"must be a path or a text, got {shown(path_or_id)}")
    folder, name = Path(path_or_id), f"{path_or_id!s:.100}"
    if _is_folder(folder):
        _check_holds_no_gguf(folder)
        return folder
    if folder.suffix.lower() == GGUF:
        if not _is_file(folder):
            raise CheckpointError(f"{name} is no file")
        return folder
    if folder.is_absolute() or str(path_or_id).startswith(".") or str(path_or_id).count("/") > 1:
        raise CheckpointError(f"{name} is not a folder")
    try:
        return download(str(path_or_id))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = f"{error!s:.200}".partition("\n")[0]
        raise CheckpointError(
            f"{name} is neither a local folder nor a hub repository within reach: {reason}"
        ) from None


def _download(name: str, revision: str | None, *, weights: bool) -> Path:
    """The hub's snapshot: the small files, then the single file or the files of the index."""
    # An adapter would be applied by transformers; it is refused here, but it must be seen.
    wanted = [*SMALL_FILES, "adapter_config.json"]
    if weights:
        wanted += ["model.safetensors", INDEX]
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    index = folder / INDEX
    if weights and index.exists() and not (folder / "model.safetensors").exists():
        listed = read_json(index).get("weight_map")
        shards = set(listed.values()) if isinstance(listed, dict) else set()
        # The same commit, should the branch have moved in between.
        snapshot_download(
            name,
            revision=folder.name,
            allow_patterns=[*wanted, *(one for one in shards if isinstance(one, str))],
        )
    return folder


def _download_adapter(name: str) -> Path:
    wanted = [*SMALL_FILES, "adapter_config.json", "adapter_model.safetensors"]
    return Path(snapshot_download(name, allow_patterns=wanted))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # e.g. its name is too long
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _check_holds_no_gguf(folder: Path) -> None:
    """Raise CheckpointError for a folder that is no checkpoint, but holds some."""
    files = sorted(folder.glob(f"*{GGUF}"))
    if files and not (folder / "config.json").exists():
        raise CheckpointError(
            f"{folder!s:.100} has no config.json; give {files[0].name:.100} in it"
        )
