"""Makes decoders of open weights, and overwrites them, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gsr_engine.checkpoint.families import NORMS_AROUND
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensor_names import (
    EMBEDDING,
    HEAD,
    LAST_NORM,
    layer_prefix,
    tensor_shapes,
)
from gsr_engine.checkpoint.tensors import ModelTensors, open_tensors
from gsr_engine.config import Quantization
from gsr_engine.model.decoder import Decoder, FeedForward, Layer, Mlp
from gsr_engine.model.experts import Experts
from gsr_engine.model.heap import Heap
from gsr_engine.model.linear import (
    Linear,
    MakeLinear,
    linear_bytes,
    linear_maker,
    quantization_beside,
)
from gsr_engine.model.rope import rotary_order

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


def decoder_of(
    stored: ModelTensors,
    dtype: torch.dtype,
    device: torch.device = _CPU,
    quantization: Quantization = "none",
) -> Decoder:
    """As `load_decoder`, from weights that are open; each is quantised as soon as it is read."""
    heap = Heap()
    get = _from(stored, dtype, device, heap)
    decoder = _assemble(stored.config, dtype, device, get, quantization)
    heap.trim()
    return decoder


Renewal = Callable[[Decoder], Decoder]
"""Gives a decoder other weights of its shape: what it returns is to be used from then on."""


def renewal(
    stored: ModelTensors, dtype: torch.dtype, device: torch.device, quantization: Quantization
) -> Renewal:
    """How a decoder of this kind gets the weights that are open; they were checked (`check`).

    On a CPU a new decoder is made here, at once: if a file cannot be read, nothing has changed. A
    GPU has no room for two, and captured graphs read the addresses of the first. So there the call
    overwrites it.
    """
    if device.type == "cpu":
        made = decoder_of(stored, dtype, quantization=quantization)
        return lambda _: made
    return partial(overwrite, stored)


def overwrite(stored: ModelTensors, decoder: Decoder) -> Decoder:
    """Copy weights of the same shape into the tensors of a decoder, and return it.

    The host holds no more than one layer, or the embedding, at a time, in the layout that the
    decoder's device takes. If a tensor cannot be read, the weights are mixed: some are new.

    Raises:
        CheckpointError: a file became unreadable after it was checked.
    """
    heap = Heap()
    get = _from(stored, decoder.dtype, _CPU, heap)
    parts = _parts(decoder.config, decoder.dtype, decoder.device, get, decoder.quantization)
    for place in (decoder.embedding, decoder.head, *decoder.layers, decoder.final_norm):
        for new, old in zip(_tensors(next(parts)), _tensors(place), strict=True):
            old.copy_(new)
    heap.trim()
    return decoder


def _from(stored: ModelTensors, dtype: torch.dtype, device: torch.device, heap: Heap) -> GetTensor:
    """Reads tensors to a device, in a dtype."""

    def get(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = stored.read(name, shape).to(device, dtype)
        heap.took(tensor.nbytes)
        return tensor

    return get


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


def bytes_to_hold(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization = "none",
) -> int:
    """`bytes_held` of a decoder that is not loaded yet, but for the padding of packed weights."""
    own = {EMBEDDING: _embedding_dtype(config, dtype, quantization)}
    beside = quantization_beside(quantization)
    total = sum(
        linear_bytes(shape, dtype, beside if _is_beside_layers(name) else quantization)
        if _is_linear(name)
        else own.get(name, dtype).itemsize * math.prod(shape)
        for name, shape in tensor_shapes(config)
    )
    laid_out = linear_maker(config, dtype, device, beside) is not Linear
    if config.tie_embeddings and laid_out:
        total += linear_bytes((config.vocab_size, config.hidden_size), dtype, beside)
    return total


def _embedding_dtype(
    config: ModelConfig, dtype: torch.dtype, quantization: Quantization
) -> torch.dtype:
    """Beside quantised weights, the checkpoint's if it is smaller: rows are only looked up."""
    own = dtype if config.dtype is None else getattr(torch, config.dtype)
    smaller: torch.dtype = own if own.itemsize < dtype.itemsize else dtype
    return dtype if quantization == "none" else smaller


def _is_linear(name: str) -> bool:
    """Whether a tensor is the weight of a linear, or of one of an expert; a router is none."""
    return name == HEAD or name.endswith("_proj.weight")


def _is_beside_layers(name: str) -> bool:
    """Whether a linear is no product of a layer's own: that of the head, or of an expert."""
    return name == HEAD or ".experts." in name


def bytes_held(decoder: Decoder) -> int:
    """Memory, in bytes, that a decoder's weights take as they are.

    A tied head that is packed or quantised is a second copy of the embedding.
    """
    tensors = {id(tensor): tensor for tensor in _tensors(decoder)}
    return sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors.values())


def _tensors(part: object) -> Iterator[torch.Tensor]:
    """All tensors of a decoder, in the order of its fields."""
    if isinstance(part, torch.Tensor):
        yield part
    elif isinstance(part, list | tuple):
        for one in part:
            yield from _tensors(one)
    elif is_dataclass(part) and not isinstance(part, ModelConfig):
        for one in fields(part):
            yield from _tensors(getattr(part, one.name))


def _assemble(
    config: ModelConfig,
    dtype: torch.dtype,
    runs_on: torch.device,
    get: GetTensor,
    quantization: Quantization = "none",
) -> Decoder:
    embedding, head, *layers, final_norm = _parts(config, dtype, runs_on, get, quantization)
    scale = config.hidden_size**0.5 if config.family.scaled_embedding else 1.0
    return Decoder(
        config=config,
        dtype=dtype,
        embedding=embedding,
        layers=layers,
        final_norm=final_norm,
        head=head,
        quantization=quantization,
        embedding_scale=float(torch.tensor(scale, dtype=dtype)),
    )


def _parts(
    config: ModelConfig,
    dtype: torch.dtype,
    runs_on: torch.device,
    get: GetTensor,
    quantization: Quantization,
) -> Iterator[Any]:
    """Embedding, head, every layer and the last norm of a decoder, one after the other.

    The largest come first: what they take on their way is free before the layers come.
    """
    linear = linear_maker(config, dtype, runs_on, quantization)
    reader = _Reader(config, dict(tensor_shapes(config)), get, linear, runs_on, quantization)
    make_head = linear_maker(config, dtype, runs_on, quantization_beside(quantization))
    kept = _embedding_dtype(config, dtype, quantization)
    if config.tie_embeddings:
        embedding = reader.tensor(EMBEDDING)
        head = make_head(embedding)
        yield embedding.to(kept)
        del embedding
        yield head
        del head
    else:
        yield reader.tensor(EMBEDDING).to(kept)
        yield make_head(reader.tensor(HEAD))
    for index in range(config.num_layers):
        yield reader.layer(index)
    yield reader.norm(LAST_NORM)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Puts layers together from tensors by name."""

    config: ModelConfig
    shapes: dict[str, tuple[int, ...]]
    get: GetTensor
    linear: MakeLinear
    runs_on: torch.device
    quantization: Quantization

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor that the checkpoint must hold."""
        return self.get(name, self.shapes[name])

    def norm(self, name: str) -> torch.Tensor:
        """The weight of a norm; it is fp32 if the norm multiplies before it rounds."""
        family = self.config.family
        weight = self.tensor(name)
        return weight.float() + family.norm_offset if family.exact_norms else weight

    def layer(self, index: int) -> Layer:
        """The layer of this index."""
        family, prefix = self.config.family, layer_prefix(index)
        norms = {
            place: self.norm(f"{prefix}{family.norms[place]}.weight")
            if place in family.norms
            else None
            for place in NORMS_AROUND
        }
        attention = prefix + "self_attn."
        weight, bias = self._qkv(index, attention)
        order = self._order(index)
        head_norms = [
            None
            if family.qk_norm is None
            else _ordered(self.norm(f"{attention}{name}_norm.weight"), order)
            for name in "qk"
        ]
        return Layer(
            qkv=self.linear(weight, bias),
            q_norm=head_norms[0],
            k_norm=head_norms[1],
            output=self.linear(self.tensor(attention + "o_proj.weight")),
            mlp=self._feed_forward(index, prefix),
            **norms,
        )

    def _order(self, index: int) -> torch.Tensor | None:
        rope = self.config.layers[index].rope
        return None if rope is None else rotary_order(rope, self.config.head_dim)

    def _qkv(self, index: int, prefix: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.config.family.fused:
            weight, bias = self.tensor(prefix + "qkv_proj.weight"), None
        else:
            weight = self._stacked(prefix, "qkv", "weight")
            bias = self._stacked(prefix, "qkv", "bias") if self.config.family.qkv_bias else None
        order = self._order(index)
        if order is None:
            return weight, bias
        size = (self.config.num_heads + self.config.num_kv_heads) * self.config.head_dim

        def ordered(rows: torch.Tensor) -> torch.Tensor:
            return torch.cat([_ordered(rows[:size], order), rows[size:]])

        return ordered(weight), None if bias is None else ordered(bias)

    def _stacked(self, prefix: str, names: Sequence[str], suffix: str) -> torch.Tensor:
        return torch.cat([self.tensor(f"{prefix}{name}_proj.{suffix}") for name in names])

    def _feed_forward(self, index: int, prefix: str) -> FeedForward:
        config, prefix = self.config, prefix + "mlp."
        gate = config.family.gate
        if config.layers[index].experts and config.experts is not None:
            names = [f"{prefix}experts.{expert}." for expert in range(config.experts.number)]
            return Experts.of(
                self.tensor(prefix + "gate.weight"),
                (self._stacked(name, ("gate", "up"), "weight") for name in names),
                (self.tensor(name + "down_proj.weight") for name in names),
                top_k=config.experts.per_token,
                normalise=config.experts.normalise,
                gate=gate,
                runs_on=self.runs_on,
                quantization=self.quantization,
            )
        if config.family.fused:
            gate_up = self.tensor(prefix + "gate_up_proj.weight")
        else:
            gate_up = self._stacked(prefix, ("gate", "up"), "weight")
        down = self.tensor(prefix + "down_proj.weight")
        return Mlp(self.linear(gate_up, gate=gate), self.linear(down))


def _ordered(rows: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    """Rows of heads, or the weight of their norm, with the dimensions of a head in this order."""
    if order is None:
        return rows
    heads: torch.Tensor = rows.unflatten(0, (-1, len(order)))
    return heads[:, order.to(rows.device)].flatten(0, 1)
