"""Weights that a caller has in memory, for example those of a model that is being trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from gsr_engine.checkpoint.fp8 import join_scales
from gsr_engine.checkpoint.model_config import ModelConfig, shown_names
from gsr_engine.checkpoint.stored_tensor import StoredTensor
from gsr_engine.checkpoint.tensor_names import HEAD, tensor_shapes
from gsr_engine.checkpoint.tensors import (
    StoredTensors,
    check_tensor,
    known_names,
    model_name,
    strange_names,
    unties,
)
from gsr_engine.errors import CheckpointError, InvalidRequest, shown

NamedTensors = Iterable[tuple[str, torch.Tensor]]
"""Transformers' names with tensors, like a model's `named_parameters()`."""

_FIELD = "weights"
_DTYPES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
}
"""As safetensors names them."""


@dataclass(frozen=True, slots=True)
class _GivenTensor:
    """A `StoredTensor` in memory."""

    name: str
    tensor: torch.Tensor

    @property
    def dtype(self) -> str:
        return _DTYPES.get(self.tensor.dtype, str(self.tensor.dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def load(self) -> torch.Tensor:
        return self.tensor.detach().to("cpu", copy=True)  # the giver may go on to change it


def given_tensors(weights: NamedTensors, model: ModelConfig) -> StoredTensors:
    """The weights of a model, each by a name that counts in a checkpoint, in any order.

    An iterator is read to its end. Every tensor of the model must be there, and nothing else; of a
    tied model, head or embedding may be missing.

    Raises:
        InvalidRequest: something is no pair of a name and a dense tensor.
        CheckpointError: a name is unknown or comes twice, a tensor is missing or has another
            shape, or the head of a tied model differs from its embedding.
        UnsupportedModel: a tensor holds no floats that are read.
    """
    names = dict(tensor_shapes(replace(model, tie_embeddings=False)))
    tensors = _by_name(weights, known_names(names, model.fp8))
    if unknown := strange_names(tensors, known_names(names, model.fp8)):
        raise CheckpointError(f"{_FIELD}: tensors that the model has not: {shown_names(unknown)}")
    if model.fp8 is not None:
        tensors, _ = join_scales(tensors, model.fp8, names)
    if HEAD in tensors:
        check_tensor(tensors[HEAD], names[HEAD])
    if model.tie_embeddings and unties(tensors, names[HEAD]):
        raise CheckpointError(f"{_FIELD}: {HEAD} differs from the embedding, to which it is tied")
    stored = StoredTensors(_FIELD, model, (), tensors)
    stored.check()
    return stored


def _by_name(weights: NamedTensors, known: set[str]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    if not isinstance(weights, Iterable):
        raise InvalidRequest(_FIELD, f"must be pairs of a name and a tensor, got {shown(weights)}")
    for place, pair in enumerate(weights):
        is_pair = isinstance(pair, tuple) and len(pair) == 2
        if not is_pair or not isinstance(pair[0], str) or not isinstance(pair[1], torch.Tensor):
            raise InvalidRequest(
                _FIELD, f"must be pairs of a name and a tensor, got {shown(pair)} at place {place}"
            )
        if not _is_plain(pair[1]):
            raise InvalidRequest(
                _FIELD,
                f"{shown(pair[0])} is no dense tensor with values in one place: gather a sharded "
                "one first (full_tensor)",
            )
        name = model_name(pair[0], known)
        if name in tensors:
            raise CheckpointError(f"{_FIELD}: {shown(name)} is given twice")
        tensors[name] = _GivenTensor(*pair)
    return tensors


def _is_plain(tensor: torch.Tensor) -> bool:
    kinds = (torch.Tensor, torch.nn.Parameter)
    return type(tensor) in kinds and tensor.layout is torch.strided and not tensor.is_meta
