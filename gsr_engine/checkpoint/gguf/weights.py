"""The weights of a GGUF file under transformers' names, dequantised one by one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gsr_engine.checkpoint.gguf.config import unread_fields
from gsr_engine.checkpoint.gguf.families import GgufFamily, family_of
from gsr_engine.checkpoint.gguf.header import GgufHeader, TensorInfo, library, read_header
from gsr_engine.checkpoint.gguf.rope import rope_tensors
from gsr_engine.checkpoint.model_config import ModelConfig, shown_names
from gsr_engine.errors import CheckpointError, UnsupportedModel, shown

QUANTIZED = ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
"""The types that are blocks of integers with scales."""
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    **dict.fromkeys(QUANTIZED, torch.float32),
}
"""The types that are read, and the dtype that holds their values."""
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
"""In transformers' names; a file has all experts of a layer in one tensor."""
AT_ONCE = 1 << 22
"""Values that are dequantised at once: the library takes twice the memory of its result."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of a file.

    Attributes:
        pairs: heads whose rows stand as rotary pairs (`GgufFamily.interleaved`); 0 if none do.
        offset: what the converter added to the values.
    """

    path: Path
    info: TensorInfo
    pairs: int = 0
    offset: float = 0.0

    @property
    def name(self) -> str:
        """The file's name for it."""
        return self.info.name

    @property
    def shape(self) -> tuple[int, ...]:
        """As torch orders it."""
        return self.info.shape

    @property
    def dtype(self) -> str:
        """Its type, e.g. "Q4_K"."""
        return self.info.kind

    def load(self) -> torch.Tensor:
        """The values, in fp32 if they were quantised; the gguf package computes them."""
        package, info = library(self.path), self.info
        kind = package.GGMLQuantizationType[info.kind]
        stored = np.memmap(self.path, np.uint8, "r", info.start, (info.size,))
        rows = stored.reshape(-1, info.size * info.shape[-1] // math.prod(info.shape))
        out = torch.empty(len(rows), info.shape[-1], dtype=DTYPES[info.kind])
        step = max(1, AT_ONCE // info.shape[-1])
        for start in range(0, len(rows), step):
            part = np.array(rows[start : start + step])
            out[start : start + step] = torch.from_numpy(package.dequantize(part, kind))
        if self.offset:
            # Exact for weights of bf16 from 2^-16 on: fp32 holds their sum with 1.
            out = out.float() - self.offset
        return self._unpaired(out.reshape(info.shape))

    def _unpaired(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self.pairs:
            return tensor
        heads = tensor.reshape(self.pairs, -1, 2, *tensor.shape[1:])
        return heads.transpose(1, 2).reshape(tensor.shape)


def open_gguf(
    path: Path, config: ModelConfig, names: Iterable[str]
) -> tuple[dict[str, GgufTensor], list[str]]:
    """The tensors of a file by transformers' names, and notes of what is not read.

    Args:
        path: the file; it stays closed until a tensor is loaded.
        config: the model's shape, read from the same file.
        names: transformers' names of all tensors that the model may have.

    Raises:
        CheckpointError: the file is broken.
        UnsupportedModel: a tensor is of a type that is not read, or the model does not have it.
    """
    header = read_header(path)
    family = family_of(header)
    stored = _stored_names(header, config, names)
    tensors = {
        name: GgufTensor(
            path,
            _part(header.tensors[theirs], config, name),
            _pairs(family, config, name),
            config.family.norm_offset if name.endswith("norm.weight") else 0.0,
        )
        for name, theirs in stored.items()
        if theirs in header.tensors
    }
    # What a file holds counts in the model that it was made of, as there is no list beside it.
    if unknown := header.tensors.keys() - set(stored.values()) - rope_tensors(header):
        raise UnsupportedModel(
            f"{path.name}: tensors that {config.architecture} has not: "
            f"{shown_names(sorted(unknown))}"
        )
    for tensor in tensors.values():
        if tensor.dtype not in DTYPES:
            raise UnsupportedModel(
                f"{path.name}: tensor {tensor.name} is of type {tensor.dtype}, which is not read; "
                f"read are {', '.join(DTYPES)}"
            )
    unread = unread_fields(header)
    notes = [f"{path.name}: not read: {shown_names(unread)}"] if unread else []
    return tensors, notes


def _stored_names(header: GgufHeader, config: ModelConfig, names: Iterable[str]) -> dict[str, str]:
    """The file's name of each tensor; the package knows them for each of its architectures."""
    package = library(header.path)
    architecture = header.metadata["general.architecture"]
    (known,) = (one for one, spelt in package.MODEL_ARCH_NAMES.items() if spelt == architecture)
    table = package.get_tensor_name_map(known, config.num_layers)
    found = {
        name: table.get_name(_EXPERT.sub(".experts.", name), try_suffixes=(".weight", ".bias"))
        for name in names
    }
    return {name: theirs for name, theirs in found.items() if theirs is not None}


def _part(info: TensorInfo, config: ModelConfig, name: str) -> TensorInfo:
    """The tensor itself, or where it has all experts of a layer, that of one."""
    found = _EXPERT.search(name)
    if found is None or config.experts is None:
        return info
    number, index = config.experts.number, int(found[1])
    if len(info.shape) < 2 or info.shape[0] != number:
        raise CheckpointError(
            f"tensor {info.name} has shape {shown(info.shape)}, which is not of {number} experts"
        )
    size = info.size // number
    return replace(
        info,
        name=f"{info.name}[{index}]",
        shape=info.shape[1:],
        start=info.start + index * size,
        size=size,
    )


def _pairs(family: GgufFamily, config: ModelConfig, name: str) -> int:
    if not family.interleaved:
        return 0
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    return heads.get(name.split(".")[-2], 0)
