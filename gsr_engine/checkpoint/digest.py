"""Digests of what a checkpoint holds: they say which weights and which tokenizer made a result."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gsr_engine.checkpoint.files import is_gguf
from gsr_engine.checkpoint.gguf.header import read_header
from gsr_engine.errors import CheckpointError


def weights_digest(folder: Path, adapter: Path | None = None) -> str:
    """SHA-256 of the contents of a folder's safetensors files by name, or of a GGUF file.

    The files of an adapter follow, with its configuration, which says how strongly it counts.

    Every byte counts, because two trainings of one model differ in nothing but the tensors' values.
    It takes a read of the weights: seconds for 7B parameters, as loading them does. The names of
    the folder and of the files do not count.

    Raises:
        CheckpointError: a folder holds no safetensors file, or one cannot be read.
    """
    if is_gguf(folder) and adapter is None:
        return _digest(folder).hex()
    files = _weight_files(folder)
    if adapter is not None:
        files += [*_weight_files(adapter), adapter / "adapter_config.json"]
    with ThreadPoolExecutor() as pool:  # hashing frees the interpreter's lock
        digests = list(pool.map(_digest, files))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 of `tokenizer.json`: token ids mean the same where it is the same.

    Of a GGUF it is that of the metadata that describe the tokenizer; nobody can tell whether they
    mean the same as some `tokenizer.json`.

    Raises:
        CheckpointError: the folder has no such file, or it cannot be read.
    """
    if is_gguf(folder):
        metadata = read_header(folder).metadata
        own = {name: value for name, value in metadata.items() if name.startswith("tokenizer.")}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
    return _digest(folder / "tokenizer.json").hex()


def _weight_files(checkpoint: Path) -> list[Path]:
    if is_gguf(checkpoint):
        return [checkpoint]
    files = sorted(file for file in checkpoint.glob("*.safetensors") if file.is_file())
    if not files:
        raise CheckpointError(f"{checkpoint} holds no safetensors file")
    return files


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
