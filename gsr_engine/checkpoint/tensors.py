"""The tensors of a model: where they lie, their names, and those that nobody reads.

Engine and trainer read weights through here, so they take the same tensors, which are those that
transformers 5 takes.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from gsr_engine.checkpoint.fields import Fields
from gsr_engine.checkpoint.files import INDEX, is_gguf, read_json
from gsr_engine.checkpoint.fp8 import SCALED, Fp8Config, join_scales, scale_names
from gsr_engine.checkpoint.gguf.weights import DTYPES as GGUF_DTYPES
from gsr_engine.checkpoint.gguf.weights import QUANTIZED as GGUF_QUANTIZED
from gsr_engine.checkpoint.gguf.weights import open_gguf
from gsr_engine.checkpoint.model_config import ModelConfig, shown_names
from gsr_engine.checkpoint.stored_tensor import StoredTensor
from gsr_engine.checkpoint.tensor_names import EMBEDDING, HEAD, tensor_shapes
from gsr_engine.errors import CheckpointError, OutOfMemory, UnsupportedModel, shown

_STORED_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""As safetensors names them, and as `config.json` does."""
_LONGEST_NAME = 255
"""Characters of a file's name: file systems allow no more."""
_COMPUTED = re.compile(r"rotary_emb\.inv_freq$")
"""Buffers that older checkpoints store, and that are computed from `config.json`."""
_ROWS = 8192
"""Rows of embedding and head that are compared at once."""


class ModelTensors(Protocol):
    """What the weights of a model are read from."""

    @property
    def config(self) -> ModelConfig:
        """The model's shape, with `tie_embeddings` and `dtype` as the weights say."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not read, or read otherwise than `config.json` says, in words."""

    @property
    def quantized(self) -> bool:
        """Whether any tensor is stored in blocks of integers."""

    def check(self) -> None:
        """Raise what `read` would of any tensor of the model, but for values that are unreadable.

        Nothing is read. Afterwards `read` fails only where a file or a device does.
        """

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor by transformers' name; the reader may not write to it."""


@dataclass(frozen=True, slots=True)
class StoredTensors:
    """The weights of a model, in open files or in memory.

    Attributes:
        source: what they are called in messages: a folder or a GGUF file, mostly.
        config: its shape, with `tie_embeddings` and `dtype` as the weights say.
        notes: what is not read, or read otherwise than `config.json` says, in words.
    """

    source: str
    config: ModelConfig
    notes: tuple[str, ...]
    _tensors: Mapping[str, StoredTensor]

    @property
    def quantized(self) -> bool:
        """Whether any tensor is stored in blocks of integers."""
        return any(tensor.dtype in GGUF_QUANTIZED for tensor in self._tensors.values())

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor by transformers' name, as it is stored; nothing is read before its checks.

        One that is quantised is in fp32.

        Raises:
            CheckpointError: it is missing, of another shape, or unreadable.
            UnsupportedModel: it is not stored as fp32, bf16 or fp16.
        """
        return read_tensor(self._tensor(name), shape)

    def check(self) -> None:
        """Raise what `read` would of any tensor of the model; nothing is read.

        Raises:
            CheckpointError, UnsupportedModel: as `read`.
        """
        for name, shape in tensor_shapes(self.config):
            check_tensor(self._tensor(name), shape)

    def _tensor(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise CheckpointError(f"{self.source} has no tensor {name}")
        return self._tensors[name]


@contextmanager
def open_tensors(folder: Path, config: ModelConfig) -> Iterator[StoredTensors]:
    """Open the weights of a folder whose `config.json` is read, or those of a GGUF file.

    A tied model's head among the weights is used if it differs from the embedding, and stands for
    the embedding if that is missing. A base model's names, which lack "model.", count as well.

    Raises:
        CheckpointError: weights are missing or unreadable, or the index names a file elsewhere.
        UnsupportedModel: the folder holds an adapter beside its weights, or a GGUF holds a tensor
            that is not known.
        OutOfMemory: a file is larger than the memory of this machine.
    """
    names = dict(tensor_shapes(replace(config, tie_embeddings=False)))
    with ExitStack() as stack:
        if is_gguf(folder):
            tensors: dict[str, StoredTensor] = {}
            found, notes = open_gguf(folder, config, names)
            tensors |= found
        else:
            tensors, notes = _open_safetensors(folder, names, config.fp8, stack)
        if config.dtype is None and tensors:
            config = replace(config, dtype=_stored_dtype(tensors))
        if config.tie_embeddings and unties(tensors, names[HEAD]):
            config = replace(config, tie_embeddings=False)
            notes.append(
                f"config.json: tie_word_embeddings is true, but {HEAD} differs from the "
                "embedding: it is used"
            )
        if unread := strange_names(tensors, names):
            notes.append(f"{folder.name}: tensors not read: {shown_names(unread)}")
        yield StoredTensors(str(folder), config, tuple(notes), tensors)


def strange_names(tensors: Iterable[str], names: Container[str]) -> list[str]:
    """The names that a model does not have; buffers that are computed do not count."""
    return [name for name in tensors if name not in names and not _COMPUTED.search(name)]


def unties(tensors: dict[str, StoredTensor], shape: tuple[int, ...]) -> bool:
    """Whether the weights of a tied model hold a head of its own, which differs from the embedding.

    A head stands for the embedding if that is missing: it is added. `shape` is that of both.

    Raises:
        CheckpointError, UnsupportedModel: as `StoredTensors.read`.
    """
    if HEAD not in tensors:
        return False
    if EMBEDDING not in tensors:
        tensors[EMBEDDING] = tensors[HEAD]
        return False
    embedding, head = (read_tensor(tensors[name], shape) for name in (EMBEDDING, HEAD))
    pairs = zip(embedding.split(_ROWS), head.split(_ROWS), strict=True)
    return not all(torch.equal(one.float(), other.float()) for one, other in pairs)


@dataclass(frozen=True, slots=True)
class _SafeTensor:
    """A `StoredTensor` of a safetensors file."""

    file: Any
    name: str

    @property
    def dtype(self) -> str:
        return str(self.file.get_slice(self.name).get_dtype())

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.file.get_slice(self.name).get_shape())

    def load(self) -> torch.Tensor:
        try:
            tensor: torch.Tensor = self.file.get_tensor(self.name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"tensor {self.name} cannot be read: {error!s:.200}") from None
        return tensor


def _open_safetensors(
    folder: Path, names: Mapping[str, tuple[int, ...]], fp8: Fp8Config | None, stack: ExitStack
) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors of a folder by transformers' names, and notes of what is not read."""
    refuse_adapter(folder)
    files, notes = _weight_files(folder)
    known = known_names(names, fp8)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for stored, tensor in open_file(file, stack).items():
            tensors[model_name(stored, known)] = tensor
    if fp8 is not None:
        tensors, more = join_scales(tensors, fp8, names)
        notes += more
    return tensors, notes


def known_names(names: Iterable[str], fp8: Fp8Config | None) -> set[str]:
    """The names that a model's tensors may have, with those of scales."""
    return {*names} if fp8 is None else {*names, *scale_names(names)}


def open_file(file: Path, stack: ExitStack) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by their names; the file is open as long as the stack.

    Raises:
        CheckpointError: the file cannot be read.
        OutOfMemory: it is larger than the memory of this machine.
    """
    try:
        opened = stack.enter_context(safe_open(file, framework="pt"))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {error!s:.200}") from None
    except RuntimeError:  # torch maps the file, which the system may refuse
        size = file.stat().st_size / 2**30
        raise OutOfMemory(
            f"{file} of {size:,.1f} GiB cannot be mapped: this machine has less memory"
        ) from None
    return {name: _SafeTensor(opened, name) for name in opened.keys()}  # noqa: SIM118  # no dict


def refuse_adapter(folder: Path) -> None:
    """Raise UnsupportedModel if a folder that is given as a model holds an adapter."""
    if (folder / "adapter_config.json").exists():
        raise UnsupportedModel(
            f"{folder} has an adapter_config.json: adapters are not applied unasked. Give the "
            "folder as adapter= over its base model; if the adapter was merged into these weights, "
            "remove the file"
        )


def model_name(stored: str, names: Container[str]) -> str:
    """The name in the model: "model." is removed or added where that makes a known name.

    Models that see images call their language model "language_model".
    """
    plain = stored.removeprefix("model.")
    language = plain.removeprefix("language_model.")
    for name in (stored, plain, f"model.{stored}", language, f"model.{language}"):
        if name in names:
            return name
    return stored


def read_tensor(tensor: StoredTensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The values of a tensor; errors as `StoredTensors.read`."""
    check_tensor(tensor, shape)
    return tensor.load()


def check_tensor(tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    """Raise what `StoredTensors.read` does of a dtype or a shape."""
    check_dtype(tensor)
    if tensor.shape != shape:
        raise CheckpointError(
            f"tensor {tensor.name} has shape {shown(tensor.shape)}, config.json implies {shape}"
        )


def check_dtype(tensor: StoredTensor) -> None:
    """Raise UnsupportedModel unless a tensor is stored as numbers that are read."""
    if tensor.dtype not in {*_STORED_DTYPES, *GGUF_DTYPES, SCALED}:
        raise UnsupportedModel(f"tensor {tensor.name} is stored as {tensor.dtype}, not a float")


def _stored_dtype(tensors: Mapping[str, StoredTensor]) -> str:
    """The dtype of the first tensor that is stored as a float."""
    dtypes = (tensor.dtype for tensor in tensors.values())
    return next((_STORED_DTYPES[one] for one in dtypes if one in _STORED_DTYPES), "float32")


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
