"""The tensors of a checkpoint: the files that hold them, their names, and those that nobody reads.

Engine and trainer read weights through here, so they take the same tensors, which are those that
transformers 5 takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gsr_engine.checkpoint.fields import Fields
from gsr_engine.checkpoint.files import INDEX, read_json
from gsr_engine.checkpoint.model_config import ModelConfig, shown_names
from gsr_engine.checkpoint.tensor_names import EMBEDDING, HEAD, tensor_shapes
from gsr_engine.errors import CheckpointError, UnsupportedModel, shown

_STORED_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""As safetensors names them, and as `config.json` does."""
_LONGEST_NAME = 255
"""Characters of a file's name: file systems allow no more."""
_COMPUTED = re.compile(r"rotary_emb\.inv_freq$")
"""Buffers that older checkpoints store, and that are computed from `config.json`."""
_ROWS = 8192
"""Rows of embedding and head that are compared at once."""


@dataclass(frozen=True, slots=True)
class StoredTensors:
    """The open weights of a checkpoint.

    Attributes:
        folder: the checkpoint.
        config: its shape, with `tie_embeddings` and `dtype` as the weights say.
        notes: what is not read, or read otherwise than `config.json` says, in words.
    """

    folder: Path
    config: ModelConfig
    notes: tuple[str, ...]
    _places: dict[str, tuple[Any, str]]

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor by transformers' name, as it is stored; nothing is read before its checks.

        Raises:
            CheckpointError: it is missing, of another shape, or unreadable.
            UnsupportedModel: it is not stored as fp32, bf16 or fp16.
        """
        if name not in self._places:
            raise CheckpointError(f"{self.folder} has no tensor {name}")
        return _read(*self._places[name], shape)


@contextmanager
def open_tensors(folder: Path, config: ModelConfig) -> Iterator[StoredTensors]:
    """Open the weights of a folder whose `config.json` is read.

    A tied model's head among the weights is used if it differs from the embedding, and stands for
    the embedding if that is missing. A base model's names, which lack "model.", count as well.

    Raises:
        CheckpointError: weights are missing or unreadable, or the index names a file elsewhere.
        UnsupportedModel: the folder holds an adapter beside its weights.
    """
    if (folder / "adapter_config.json").exists():
        raise UnsupportedModel(
            f"{folder} has an adapter_config.json: adapters are not applied. Merge the adapter "
            "into the weights; if that was done, remove the file"
        )
    files, notes = _weight_files(folder)
    with ExitStack() as stack:
        places: dict[str, tuple[Any, str]] = {}
        names = dict(tensor_shapes(replace(config, tie_embeddings=False)))
        for file in files:
            try:
                opened = stack.enter_context(safe_open(file, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{file} cannot be read: {error!s:.200}") from None
            for stored in opened.keys():  # noqa: SIM118  # it is no dict
                places[_model_name(stored, names)] = opened, stored
        if config.dtype is None and places:
            config = replace(config, dtype=_stored_dtype(places))
        if config.tie_embeddings and HEAD in places:
            if EMBEDDING not in places:
                places[EMBEDDING] = places[HEAD]
            elif _own_head(places, names[HEAD]):
                config = replace(config, tie_embeddings=False)
                notes.append(
                    f"config.json: tie_word_embeddings is true, but {HEAD} differs from the "
                    "embedding: it is used"
                )
        unread = [name for name in places if name not in names and not _COMPUTED.search(name)]
        if unread:
            notes.append(f"{folder.name}: tensors not read: {shown_names(unread)}")
        yield StoredTensors(folder, config, tuple(notes), places)


def _model_name(stored: str, names: dict[str, tuple[int, ...]]) -> str:
    """The name in the model: "model." is removed or added where that makes a known name.

    Models that see images call their language model "language_model".
    """
    plain = stored.removeprefix("model.")
    language = plain.removeprefix("language_model.")
    for name in (stored, plain, f"model.{stored}", language, f"model.{language}"):
        if name in names:
            return name
    return stored


def _read(file: Any, stored: str, shape: tuple[int, ...]) -> torch.Tensor:
    header = file.get_slice(stored)
    dtype, found = header.get_dtype(), tuple(header.get_shape())
    if dtype not in _STORED_DTYPES:
        raise UnsupportedModel(f"tensor {stored} is stored as {dtype}, not a float")
    if found != shape:
        raise CheckpointError(
            f"tensor {stored} has shape {shown(found)}, config.json implies {shape}"
        )
    try:
        tensor: torch.Tensor = file.get_tensor(stored)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"tensor {stored} cannot be read: {error!s:.200}") from None
    return tensor


def _stored_dtype(places: dict[str, tuple[Any, str]]) -> str:
    """The dtype of the first tensor that is stored as a float."""
    dtypes = (file.get_slice(stored).get_dtype() for file, stored in places.values())
    return next((_STORED_DTYPES[one] for one in dtypes if one in _STORED_DTYPES), "float32")


def _own_head(places: dict[str, tuple[Any, str]], shape: tuple[int, ...]) -> bool:
    embedding, head = (_read(*places[name], shape) for name in (EMBEDDING, HEAD))
    pairs = zip(embedding.split(_ROWS), head.split(_ROWS), strict=True)
    return not all(torch.equal(one.float(), other.float()) for one, other in pairs)


def _weight_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The files that hold the weights, and what is not read beside them."""
    single, index = folder / "model.safetensors", folder / INDEX
    notes = []
    if single.is_file() or not index.exists():
        files = [single]
        if index.exists():
            notes.append(f"{index.name}: not read: {single.name} stands beside it")
    else:
        files = _indexed_files(index)
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing[:3]) or 'weights'} (only safetensors are read)"
        )
    return files, notes


def _indexed_files(index: Path) -> list[Path]:
    """The files that an index lists.

    Raises:
        CheckpointError: a name is no text, or names something else than a file of this folder.
    """
    listed = Fields(str(index), read_json(index)).mapping("weight_map").values()
    for name in listed:
        plain = isinstance(name, str) and len(name) <= _LONGEST_NAME and name.isprintable()
        if not plain or name in ("", ".", "..") or "/" in name or "\\" in name:
            raise CheckpointError(
                f"{index}: weight_map must give names of files in its folder, got {shown(name)}"
            )
    files = [index.parent / name for name in sorted(set(listed))]
    for file in files:
        if not _lies_within(file, index.parent):
            raise CheckpointError(
                f"{index}: weight_map must give names of files in its folder, but "
                f"{shown(file.name)} is a link that leads out of it"
            )
    return files


def _lies_within(file: Path, folder: Path) -> bool:
    """Whether a file is in a folder, or where the hub's cache keeps the files of a snapshot."""
    roots = [folder.resolve()]
    if roots[0].parent.name == "snapshots":
        roots.append((roots[0].parent.parent / "blobs").resolve())
    return any(file.resolve().is_relative_to(root) for root in roots)
