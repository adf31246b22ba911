"""A LoRA adapter over the weights of its base model, merged tensor by tensor as they are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gsr_engine.checkpoint.adapter_config import AdapterConfig
from gsr_engine.checkpoint.files import INDEX, SMALL_FILES, is_gguf
from gsr_engine.checkpoint.model_config import ModelConfig, shown_names
from gsr_engine.checkpoint.stored_tensor import StoredTensor
from gsr_engine.checkpoint.tensor_names import EMBEDDING, HEAD, tensor_shapes
from gsr_engine.checkpoint.tensors import (
    ModelTensors,
    check_dtype,
    model_name,
    open_file,
    read_tensor,
)
from gsr_engine.errors import CheckpointError, UnsupportedModel, shown

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""What peft puts before the names of the base model."""
_LOW_RANK = re.compile(r"(.+)\.lora_(?:(A|B)\.weight|embedding_(A|B))$")
_WHOLE = re.compile(r"(.+?)(?:\.modules_to_save|\.base_layer)?\.(weight|bias)$")
_TAKEN_ELSEWHERE = ("config.json", "gsr.json")
"""Small files that are no tokenizer's: the base's configuration, and the prompts (`loading.py`)."""


@dataclass(frozen=True, slots=True)
class _Product:
    """scale B A, which is added to a tensor of the model.

    Attributes:
        shapes: of A and of B.
        turned: A is [rank, rows] and B [columns, rank], as peft stores them for an embedding;
            otherwise A is [rank, columns] and B [rows, rank].
    """

    scale: float
    a: StoredTensor
    b: StoredTensor
    shapes: tuple[tuple[int, int], tuple[int, int]]
    turned: bool


@dataclass(frozen=True, slots=True)
class AdaptedTensors:
    """The weights of a base model with an adapter merged into them; see `ModelTensors`.

    A merged tensor is W + scale B A, computed in fp32 and returned so: it is rounded once, to what
    its reader keeps. A tensor that the adapter holds whole stands for that of the base.
    """

    config: ModelConfig
    notes: tuple[str, ...]
    _base: ModelTensors
    _whole: dict[str, StoredTensor]
    _products: dict[str, _Product]

    @property
    def quantized(self) -> bool:
        """Whether any tensor of the base model is stored in blocks of integers."""
        return self._base.quantized

    def check(self) -> None:
        """Raise what `read` would; the adapter's own tensors were checked when it was opened.

        Raises:
            CheckpointError, UnsupportedModel: as `StoredTensors.read`.
        """
        self._base.check()

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor by transformers' name, in fp32 if the adapter changes it.

        Raises:
            CheckpointError, UnsupportedModel: as `StoredTensors.read`.
        """
        if name in self._whole:
            tensor = read_tensor(self._whole[name], shape)
        elif name == HEAD and self._base.config.tie_embeddings:
            tensor = self._base.read(EMBEDDING, shape)
        else:
            tensor = self._base.read(name, shape)
        product = self._products.get(name)
        if product is None:
            return tensor
        a, b = (
            read_tensor(stored, size).float()
            for stored, size in zip((product.a, product.b), product.shapes, strict=True)
        )
        left, right = (a.T, b.T) if product.turned else (b, a)
        merged = tensor.to(torch.float32, copy=True)  # what was read may be the file itself
        return merged.addmm_(left, right, alpha=product.scale)


@contextmanager
def open_adapted(base: ModelTensors, folder: Path) -> Iterator[AdaptedTensors]:
    """Put the adapter of a folder over the open weights of its base model.

    A tied model whose embedding or head the adapter changes has two different ones afterwards, as
    it had in training: peft adapts one of them alone.

    Raises:
        CheckpointError: the folder holds no adapter, or one that does not belong to this model.
        UnsupportedModel: it holds an adapter of another kind.
    """
    config, path = AdapterConfig.from_folder(folder), folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{folder} lacks {ADAPTER_WEIGHTS} (only safetensors are read)")
    model, notes = replace(base.config, tie_embeddings=False), [*base.notes, *config.notes]
    with ExitStack() as stack:
        tensors = open_file(path, stack)
        whole, products = _places(tensors, path, config, dict(tensor_shapes(model)))
        if base.config.tie_embeddings and {EMBEDDING, HEAD}.isdisjoint({*whole, *products}):
            model = base.config
        elif base.config.tie_embeddings:
            notes.append("the adapter unties the head from the embedding: both are kept")
        yield AdaptedTensors(model, tuple(notes), base, whole, products)


def adapter_notes(folder: Path, base: Path) -> list[str]:
    """What of an adapter's folder is not read or does not fit its base model, in words."""
    notes = []
    named = AdapterConfig.from_folder(folder).base.rstrip("/")
    if named and Path(named).name != base.resolve().name and not _is_snapshot(base, named):
        notes.append(f"the adapter was trained over {named:.200}, and is merged into {base}")
    unread = [
        str(file.relative_to(folder))
        for pattern in SMALL_FILES
        for file in sorted(folder.glob(pattern))
        if file.name not in _TAKEN_ELSEWHERE and not _same(file, base / file.relative_to(folder))
    ]
    unread += [name for name in ("model.safetensors", INDEX) if (folder / name).exists()]
    if unread:
        why = "" if is_gguf(base) else ", though other than the base model's"
        notes.append(f"{shown(folder.name)}: not read{why}: {shown_names(unread)}")
    return notes


def _is_snapshot(base: Path, named: str) -> bool:
    """Whether a folder is what the hub's cache holds of a repository."""
    return base.resolve().parent.parent.name == "models--" + named.replace("/", "--")


def _same(file: Path, other: Path) -> bool:
    return file.is_file() and other.is_file() and file.read_bytes() == other.read_bytes()


def _places(
    tensors: dict[str, StoredTensor],
    path: Path,
    config: AdapterConfig,
    shapes: dict[str, tuple[int, ...]],
) -> tuple[dict[str, StoredTensor], dict[str, _Product]]:
    """Which tensor of the model is replaced by which, and which gets which product.

    Raises:
        CheckpointError: a tensor belongs to none of the model's, or lacks its other half.
    """
    whole: dict[str, StoredTensor] = {}
    halves: dict[tuple[str, bool], dict[str, StoredTensor]] = {}
    for stored, tensor in tensors.items():
        name = stored.removeprefix(_PREFIX)
        if found := _LOW_RANK.fullmatch(name):
            half = found[2] or found[3]
            halves.setdefault((found[1], found[3] is not None), {})[half] = tensor
        elif (found := _WHOLE.fullmatch(name)) and (
            target := _target(f"{found[1]}.{found[2]}", shapes)
        ):
            whole[target] = tensor
        else:
            raise _stray(path, stored)
    products = {}
    for (module, turned), named in halves.items():
        target = _target(f"{module}.weight", shapes)
        one = next(iter(named.values())).name
        if target is None or len(shapes[target]) != 2 or turned != (target == EMBEDDING):
            raise _stray(path, one)
        if len(named) < 2:
            raise CheckpointError(f"{path}: tensor {one:.200} lacks its other half")
        products[target] = _product(config, module, named, shapes[target], turned)
    if not whole and not products:
        raise CheckpointError(f"{path} holds no tensors")
    _check_shapes(path, whole, products, shapes)
    return whole, products


def _product(
    config: AdapterConfig,
    module: str,
    named: dict[str, StoredTensor],
    shape: tuple[int, ...],
    turned: bool,
) -> _Product:
    rank, (rows, columns) = config.rank_of(module), shape
    if turned:
        rows, columns = columns, rows
    sizes = (rank, columns), (rows, rank)
    return _Product(config.scale_of(module), named["A"], named["B"], sizes, turned)


def _target(name: str, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """The model's tensor of a name, in any spelling that counts for the model's own weights."""
    found = model_name(name, shapes)
    return found if found in shapes else None


def _stray(path: Path, stored: str) -> CheckpointError:
    return UnsupportedModel(f"{path}: tensor {stored:.200} belongs to no weight of the model")


def _check_shapes(
    path: Path,
    whole: dict[str, StoredTensor],
    products: dict[str, _Product],
    shapes: dict[str, tuple[int, ...]],
) -> None:
    wanted = [(tensor, shapes[name]) for name, tensor in whole.items()]
    for product in products.values():
        wanted += zip((product.a, product.b), product.shapes, strict=True)
    for tensor, shape in wanted:
        check_dtype(tensor)
        if tensor.shape != shape:
            raise CheckpointError(
                f"{path}: tensor {tensor.name} has shape {shown(tensor.shape)}, the model's "
                f"config.json and the adapter's rank imply {shape}"
            )
