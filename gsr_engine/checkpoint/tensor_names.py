"""The names and shapes of a checkpoint's tensors, as transformers names them."""

from __future__ import annotations

from collections.abc import Iterator

from gsr_engine.checkpoint.layer_kinds import LayerKind
from gsr_engine.checkpoint.model_config import ModelConfig

EMBEDDING, HEAD, LAST_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"

Shapes = Iterator[tuple[str, tuple[int, ...]]]
"""Names with shapes."""


def tensor_shapes(config: ModelConfig) -> Shapes:
    """Names and shapes of the tensors that a checkpoint must hold."""
    yield EMBEDDING, (config.vocab_size, config.hidden_size)
    for index, kind in enumerate(config.layers):
        prefix = layer_prefix(index)
        for name in config.family.norms.values():
            yield f"{prefix}{name}.weight", (config.hidden_size,)
        yield from _attention(config, prefix + "self_attn.")
        yield from _feed_forward(config, kind, prefix + "mlp.")
    yield LAST_NORM, (config.hidden_size,)
    if not config.tie_embeddings:
        yield HEAD, (config.vocab_size, config.hidden_size)


def layer_prefix(index: int) -> str:
    """What the names of a layer's tensors begin with."""
    return f"model.layers.{index}."


def _attention(config: ModelConfig, prefix: str) -> Shapes:
    hidden, head_dim, family = config.hidden_size, config.head_dim, config.family
    q, kv = config.num_heads * head_dim, config.num_kv_heads * head_dim
    if family.fused:
        yield prefix + "qkv_proj.weight", (q + 2 * kv, hidden)
    else:
        for name, size in (("q", q), ("k", kv), ("v", kv)):
            yield f"{prefix}{name}_proj.weight", (size, hidden)
            if family.qkv_bias:
                yield f"{prefix}{name}_proj.bias", (size,)
    if family.qk_norm is not None:
        per_head = family.qk_norm == "head"
        yield prefix + "q_norm.weight", (head_dim if per_head else q,)
        yield prefix + "k_norm.weight", (head_dim if per_head else kv,)
    yield prefix + "o_proj.weight", (hidden, q)


def _feed_forward(config: ModelConfig, kind: LayerKind, prefix: str) -> Shapes:
    hidden, size = config.hidden_size, config.intermediate_size
    experts = config.experts
    if kind.experts and experts is not None:
        yield prefix + "gate.weight", (experts.number, hidden)
        for index in range(experts.number):
            yield from _gated(f"{prefix}experts.{index}.", experts.intermediate_size, hidden)
    elif config.family.fused:
        yield prefix + "gate_up_proj.weight", (2 * size, hidden)
        yield prefix + "down_proj.weight", (hidden, size)
    else:
        yield from _gated(prefix, size, hidden)


def _gated(prefix: str, size: int, hidden: int) -> Shapes:
    yield prefix + "gate_proj.weight", (size, hidden)
    yield prefix + "up_proj.weight", (size, hidden)
    yield prefix + "down_proj.weight", (hidden, size)
