"""Loads decoders from checkpoint folders: safetensors only, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gsr_engine.checkpoint.fields import Fields
from gsr_engine.checkpoint.files import read_json
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.errors import CheckpointError, UnsupportedModel, shown
from gsr_engine.model.decoder import Decoder, Layer
from gsr_engine.model.linear import Linear, prepacked, prepacks

_CPU = torch.device("cpu")
_STORED_DTYPES = ("F32", "BF16", "F16")
"""As safetensors names them."""

GetTensor = Callable[[str, tuple[int, ...]], torch.Tensor]
"""A tensor by its name; it has the given shape."""
_LONGEST_NAME = 255
"""Characters of a file's name: file systems allow no more."""

MakeLinear = Callable[..., Linear]


def load_decoder(
    folder: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device = _CPU
) -> Decoder:
    """The decoder of a checkpoint folder, in `dtype`; tensors are moved to the device one by one.

    Raises:
        CheckpointError: weights are missing, unreadable, or their shape contradicts config.json.
        UnsupportedModel: a tensor is not stored as fp32, bf16 or fp16.
    """
    with ExitStack() as stack:
        files = {}
        for file in _weight_files(folder):
            try:
                opened = stack.enter_context(safe_open(file, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{file} cannot be read: {error!s:.200}") from None
            files.update(dict.fromkeys(opened.keys(), opened))

        def get(name: str, shape: tuple[int, ...]) -> torch.Tensor:
            if name not in files:
                raise CheckpointError(f"{folder} has no tensor {name}")
            return _read_tensor(files[name], name, shape).to(device, dtype)

        return _assemble(config, dtype, device, get)


def _read_tensor(file: Any, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor from an open file; the header is checked first, so that nothing large is read."""
    header = file.get_slice(name)
    stored, found = header.get_dtype(), tuple(header.get_shape())
    if stored not in _STORED_DTYPES:
        raise UnsupportedModel(f"tensor {name} is stored as {stored}, not a float")
    if found != shape:
        raise CheckpointError(
            f"tensor {name} has shape {shown(found)}, config.json implies {shape}"
        )
    try:
        tensor: torch.Tensor = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"tensor {name} cannot be read: {error!s:.200}") from None
    return tensor


def dummy_decoder(
    config: ModelConfig, dtype: torch.dtype, seed: int = 0, device: torch.device = _CPU
) -> Decoder:
    """A decoder of the given shape with seeded random weights, for benchmarks and tests."""
    generator = torch.Generator(device).manual_seed(seed)

    def get(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=dtype, device=device)
        scale: float = shape[-1] ** -0.5
        return (torch.randn(shape, generator=generator, device=device) * scale).to(dtype)

    return _assemble(config, dtype, device, get)


def weight_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Memory, in bytes, that the weights of a decoder take."""
    return dtype.itemsize * sum(math.prod(shape) for _, shape in _shapes(config))


def copy_weights(source: Decoder, target: Decoder) -> None:
    """Copy the weights of `source` into the tensors of `target`; both must have one shape."""
    for new, old in zip(_tensors(source), _tensors(target), strict=True):
        old.copy_(new)


def _tensors(decoder: Decoder) -> Iterator[torch.Tensor]:
    yield from (decoder.embedding, decoder.final_norm, decoder.head.weight)
    for layer in decoder.layers:
        for part in fields(layer):
            value = getattr(layer, part.name)
            parts = (value.weight, value.bias) if isinstance(value, Linear) else (value,)
            yield from (tensor for tensor in parts if tensor is not None)


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights; links are followed, as the hub's cache is made of them."""
    index = folder / "model.safetensors.index.json"
    names = _indexed_files(index) if index.exists() else ["model.safetensors"]
    files = [folder / name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing[:3]) or 'weights'} (only safetensors are read)"
        )
    return files


def _indexed_files(index: Path) -> list[str]:
    """The names of the files that an index lists.

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
    return sorted(set(listed))


def _shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors that a checkpoint must hold, as transformers names them."""
    hidden, head_dim = config.hidden_size, config.head_dim
    q, kv = config.num_heads * head_dim, config.num_kv_heads * head_dim
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    for index in range(config.num_layers):
        prefix = f"model.layers.{index}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        for name, size in (("q", q), ("k", kv), ("v", kv)):
            yield f"{prefix}self_attn.{name}_proj.weight", (size, hidden)
            if config.qkv_bias:
                yield f"{prefix}self_attn.{name}_proj.bias", (size,)
        if config.qk_norm:
            yield prefix + "self_attn.q_norm.weight", (head_dim,)
            yield prefix + "self_attn.k_norm.weight", (head_dim,)
        yield prefix + "self_attn.o_proj.weight", (hidden, q)
        yield prefix + "mlp.gate_proj.weight", (config.intermediate_size, hidden)
        yield prefix + "mlp.up_proj.weight", (config.intermediate_size, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, config.intermediate_size)
    yield "model.norm.weight", (hidden,)
    if not config.tie_embeddings:
        yield "lm_head.weight", (config.vocab_size, hidden)


def _assemble(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, get: GetTensor
) -> Decoder:
    shapes = dict(_shapes(config))

    def tensor(name: str) -> torch.Tensor:
        return get(name, shapes[name])

    on_cpu = device.type == "cpu"
    linear: MakeLinear = prepacked if on_cpu and prepacks(config, dtype) else Linear
    embedding = tensor("model.embed_tokens.weight")
    head = embedding if config.tie_embeddings else tensor("lm_head.weight")
    return Decoder(
        config=config,
        embedding=embedding,
        layers=[
            _layer(config, f"model.layers.{i}.", tensor, linear) for i in range(config.num_layers)
        ],
        final_norm=tensor("model.norm.weight"),
        head=linear(head),
    )


def _layer(
    config: ModelConfig, prefix: str, tensor: Callable[[str], torch.Tensor], linear: MakeLinear
) -> Layer:
    def stacked(names: str, suffix: str) -> torch.Tensor:
        return torch.cat([tensor(f"{prefix}{name}_proj.{suffix}") for name in names.split()])

    qkv = "self_attn.q self_attn.k self_attn.v"
    return Layer(
        input_norm=tensor(prefix + "input_layernorm.weight"),
        qkv=linear(stacked(qkv, "weight"), stacked(qkv, "bias") if config.qkv_bias else None),
        q_norm=tensor(prefix + "self_attn.q_norm.weight") if config.qk_norm else None,
        k_norm=tensor(prefix + "self_attn.k_norm.weight") if config.qk_norm else None,
        output=linear(tensor(prefix + "self_attn.o_proj.weight")),
        post_norm=tensor(prefix + "post_attention_layernorm.weight"),
        gate_up=linear(stacked("mlp.gate mlp.up", "weight")),
        down=linear(tensor(prefix + "mlp.down_proj.weight")),
    )
