"""Weights that a checkpoint stores in fp8 with scales, dequantised one by one.

This is transformers' `quant_method: fp8`: Qwen3-FP8 and DeepSeek have a scale for each block of
128 x 128, Ministral 3 one for each tensor. `weight_scale_inv` is the scale that multiplies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gsr_engine.checkpoint.fields import Fields
from gsr_engine.checkpoint.stored_tensor import StoredTensor
from gsr_engine.errors import CheckpointError, UnsupportedModel, shown

FIELD = "quantization_config"
SCALED = "F8_E4M3 with scales"
"""What `Fp8Tensor` calls its type."""
_STORED = "F8_E4M3"
"""As safetensors names it."""
_WEIGHT, _SCALE, _ACTIVATION = "weight", "weight_scale_inv", "activation_scale"
_SCALE_DTYPES = ("F32", "BF16", "F16")
_LARGEST_BLOCK = 1 << 20
_ONLY: dict[str, tuple[object, ...]] = {
    "quant_method": ("fp8",),
    "fmt": ("e4m3",),
    "activation_scheme": ("dynamic", "static"),
    "scale_fmt": ("float", "ue8m0"),
    "expert_dtype": ("fp8",),
}
"""The values of fields that are known."""
_WITHOUT_EFFECT = frozenset(
    {"dequantize", "ignored_layers", "modules_to_not_convert", "modules_to_convert"}
)
"""How a tensor is stored says the same as the lists of modules."""


@dataclass(frozen=True, slots=True)
class Fp8Config:
    """How a checkpoint's fp8 weights are scaled.

    Attributes:
        block: rows and columns that share a scale; None: one scale for a tensor.
    """

    block: tuple[int, int] | None

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> tuple[Fp8Config | None, list[str]]:
        """Read `quantization_config` of a parsed `config.json`; None if there is none.

        Returns the names of its fields that are not read, too.

        Raises:
            CheckpointError: a field has a bad value.
            UnsupportedModel: the weights are quantised in another way.
        """
        if not raw.get(FIELD):
            return None, []
        stated = Fields("config.json", raw).mapping(FIELD)
        if stated.get("quant_method") != "fp8":
            raise UnsupportedModel(
                f"config.json: {FIELD} {shown(stated)} is not supported, only quant_method 'fp8'"
            )
        for name, values in _ONLY.items():
            value = stated.get(name)
            if value is not None and value not in values:
                raise UnsupportedModel(
                    f"config.json: {FIELD}: {name} {shown(value)} is not supported, only "
                    f"{' or '.join(map(repr, values))}"
                )
        known = {*_ONLY, *_WITHOUT_EFFECT, "weight_block_size"}
        unread = [f"{FIELD}.{name}" for name in stated if name not in known]
        return cls(_block(stated)), unread


@dataclass(frozen=True, slots=True)
class Fp8Tensor:
    """A `StoredTensor` whose values are e4m3 times scales.

    Attributes:
        weight: e4m3 [out, in].
        scale: one number, or [out / rows, in / columns] of the block, rounded up.
        block: as in `Fp8Config`.
    """

    weight: StoredTensor
    scale: StoredTensor
    block: tuple[int, int] | None

    @property
    def name(self) -> str:
        """As the file names the weight."""
        return self.weight.name

    @property
    def dtype(self) -> str:
        """`SCALED`."""
        return SCALED

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        return self.weight.shape

    def load(self) -> torch.Tensor:
        """The products, in fp32."""
        values, scale = self.weight.load().float(), self.scale.load().float()
        if self.block is None:
            return values.mul_(scale)
        rows, columns = self.block
        for part, scales in zip(values.split(rows), scale, strict=True):
            part *= scales.repeat_interleave(columns)[: values.shape[1]]
        return values

    def check(self) -> None:
        """Refuse scales that do not fit; no value is read.

        Raises:
            CheckpointError: the scales have another shape than the weight's blocks.
            UnsupportedModel: the scales are no floats that are read, or the weight is no matrix.
        """
        if self.scale.dtype not in _SCALE_DTYPES:
            raise UnsupportedModel(
                f"tensor {self.scale.name} is stored as {self.scale.dtype}, not as one of "
                f"{', '.join(_SCALE_DTYPES)}"
            )
        if len(self.shape) != 2:
            raise UnsupportedModel(f"tensor {self.name} is {_STORED} and no matrix")
        wanted: tuple[tuple[int, ...], ...] = ((), (1,))
        if self.block is not None:
            pairs = zip(self.shape, self.block, strict=True)
            wanted = (tuple(-(-size // block) for size, block in pairs),)
        if self.scale.shape not in wanted:
            raise CheckpointError(
                f"tensor {self.scale.name} has shape {shown(self.scale.shape)}, weight_block_size "
                f"of config.json implies {wanted[0]}"
            )


def scale_names(names: Iterable[str]) -> set[str]:
    """The names that scales of a model's tensors may have."""
    stems = [name.removesuffix(_WEIGHT) for name in names if name.endswith("." + _WEIGHT)]
    return {stem + suffix for stem in stems for suffix in (_SCALE, _ACTIVATION)}


def join_scales(
    tensors: Mapping[str, StoredTensor], config: Fp8Config, names: Iterable[str]
) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors with each fp8 weight and its scale as one, and notes of what is not read.

    Args:
        tensors: by transformers' names, scales too.
        config: how they are scaled.
        names: transformers' names of all tensors that the model may have.

    Raises:
        CheckpointError: a weight in fp8 has no scale, or a scale belongs to no weight in fp8.
        CheckpointError, UnsupportedModel: a scale does not fit, as `Fp8Tensor.check`.
    """
    scales = {name: tensors[name] for name in sorted(scale_names(names) & tensors.keys())}
    joined = {name: tensor for name, tensor in tensors.items() if name not in scales}
    for name in names:
        tensor = tensors.get(name)
        if tensor is None or tensor.dtype != _STORED:
            continue
        scale = scales.pop(name.removesuffix(_WEIGHT) + _SCALE, None)
        if scale is None:
            raise CheckpointError(f"tensor {tensor.name} is {_STORED}, and its {_SCALE} is missing")
        joined[name] = scaled = Fp8Tensor(tensor, scale, config.block)
        scaled.check()
    unused = [name for name in scales if name.endswith(_ACTIVATION)]
    for name, tensor in scales.items():
        if name not in unused:
            raise CheckpointError(f"tensor {tensor.name} is the scale of no weight in {_STORED}")
    notes = ["the checkpoint's activation scales are not used: each token has its own"]
    return joined, notes if unused else []


def _block(stated: dict[str, Any]) -> tuple[int, int] | None:
    # Transformers' default; a null means one scale for a tensor.
    sizes = stated.get("weight_block_size", [128, 128])
    if sizes is None:
        return None
    valid = isinstance(sizes, list) and len(sizes) == 2
    if not valid or not all(type(one) is int and 0 < one <= _LARGEST_BLOCK for one in sizes):
        raise CheckpointError(
            f"config.json: {FIELD}: weight_block_size must be two integers from 1 to "
            f"{_LARGEST_BLOCK}, got {shown(sizes)}"
        )
    return sizes[0], sizes[1]
