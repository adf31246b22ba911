"""Loads decoders from checkpoint folders: safetensors only, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import torch

from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensors import (
    EMBEDDING,
    HEAD,
    ModelTensors,
    open_tensors,
    tensor_shapes,
)
from gsr_engine.model.decoder import Decoder, Layer
from gsr_engine.model.heap import Heap
from gsr_engine.model.linear import Linear, MakeLinear, linear_maker

_CPU = torch.device("cpu")

GetTensor = Callable[[str, tuple[int, ...]], torch.Tensor]
"""A tensor by its name; it has the given shape."""


def load_decoder(
    folder: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device = _CPU
) -> Decoder:
    """The decoder of a checkpoint folder, in `dtype`; tensors are moved to the device one by one.

    Raises:
        CheckpointError: weights are missing, unreadable, or their shape contradicts config.json.
        UnsupportedModel: a tensor is not stored as fp32, bf16 or fp16.
    """
    with open_tensors(folder, config) as stored:
        return decoder_of(stored, dtype, device)


def decoder_of(stored: ModelTensors, dtype: torch.dtype, device: torch.device = _CPU) -> Decoder:
    """As `load_decoder`, from weights that are open."""
    heap = Heap()

    def get(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = stored.read(name, shape).to(device, dtype)
        heap.took(tensor.nbytes)
        return tensor

    decoder = _assemble(stored.config, dtype, device, get)
    heap.trim()
    return decoder


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
    return dtype.itemsize * sum(math.prod(shape) for _, shape in tensor_shapes(config))


def bytes_to_hold(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """`bytes_held` of a decoder that is not loaded yet, but for the padding of packed weights."""
    copies_head = config.tie_embeddings and linear_maker(config, dtype, device) is not Linear
    return weight_bytes(config, dtype) + copies_head * (
        dtype.itemsize * config.vocab_size * config.hidden_size
    )


def bytes_held(decoder: Decoder) -> int:
    """Memory, in bytes, that a decoder's weights take as they are.

    A tied head that is packed is a second copy of the embedding.
    """
    tensors = {id(tensor): tensor for tensor in _tensors(decoder)}
    return sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors.values())


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


def _assemble(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, get: GetTensor
) -> Decoder:
    shapes = dict(tensor_shapes(config))

    def tensor(name: str) -> torch.Tensor:
        return get(name, shapes[name])

    linear = linear_maker(config, dtype, device)
    embedding = tensor(EMBEDDING)
    head = embedding if config.tie_embeddings else tensor(HEAD)
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
        gate_up=linear(stacked("mlp.gate mlp.up", "weight"), gated=True),
        down=linear(tensor(prefix + "mlp.down_proj.weight")),
    )
