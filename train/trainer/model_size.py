"""Parameters and memory of a model, counted on the meta device: nothing is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from train.trainer.config import KV_CACHE_GIB, Checkpointing, SftConfig
from train.trainer.lora import add_adapters
from train.trainer.loss import CHUNK

_COUNTED = "gsr_counted"


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Parameters, and bytes of activations.

    Attributes:
        parameters: all parameters.
        trained: parameters that have gradients.
        layer: parameters of one layer.
        root: parameters of embedding, last norm and head.
        layers: number of layers.
        saved: bytes per token that the backward of one layer needs, by checkpointing.
        again: bytes per token that one layer holds while it is recomputed.
        vocab: words of the head.
    """

    parameters: int
    trained: int
    layer: int
    root: int
    layers: int
    saved: dict[Checkpointing, float]
    again: float
    vocab: int

    @classmethod
    def of(
        cls, model_config: PretrainedConfig, lora: int = 0, dtype: torch.dtype = torch.bfloat16
    ) -> ModelSize:
        """Count on the real layers of transformers, without any values.

        Args:
            model_config: the model's shape.
            lora: rank of adapters, 0 for none.
            dtype: of the forward's products.
        """
        with torch.device("meta"):
            hf = AutoModelForCausalLM.from_config(
                model_config, dtype=dtype, attn_implementation=_COUNTED
            )
        parameters, layer = _count(hf), _count(hf.model.layers[0])
        layers = len(hf.model.layers)
        if lora:
            add_adapters(hf, lora)
        whole = _saved_bytes(hf, dtype)
        return cls(
            parameters=parameters,
            trained=sum(p.numel() for p in hf.parameters() if p.requires_grad),
            layer=layer,
            root=parameters - layers * layer,
            layers=layers,
            saved={
                "none": whole,
                "selective": _products(model_config, dtype.itemsize),
                "full": float(dtype.itemsize * model_config.hidden_size),
            },
            again=whole,
            vocab=model_config.vocab_size,
        )

    def bytes_per_rank(
        self, config: SftConfig, shards: int, tokens: int, targets: int
    ) -> dict[str, float]:
        """Bytes held when most is held, at the beginning of the backward, by kind.

        Args:
            config: settings of the run, with a dtype that is not "auto".
            shards: ranks that share one copy of the state.
            tokens: of the largest pack.
            targets: most tokens of a pack that are learnt.
        """
        dtype = getattr(torch, config.dtype)
        kind, width = {2: "bf16", 4: "fp32"}[dtype.itemsize], float(dtype.itemsize)
        # In the dtype, in fp32, and the gradient of the latter.
        logits = (width + 8) * min(CHUNK, targets * self.vocab)
        again = self.again if config.checkpointing != "none" else 0.0
        kept = self.layers * self.saved[config.checkpointing]
        reduced = 0.0 if config.lora else width + 4  # adapters are too small to count
        return {
            "parameters, fp32, sharded": 4 * self.parameters / shards,
            "gradients, fp32, sharded": 4 * self.trained / shards,
            "AdamW's two moments, fp32, sharded": 8 * self.trained / shards,
            f"two layers gathered, {kind}": 2 * width * self.layer,
            f"a layer's gradients, {kind}, and the copy that is reduced": reduced * self.layer,
            f"embedding and head gathered, {kind}": width * self.root,
            f"theirs, {kind}, and the copy that is reduced": reduced * self.root,
            "activations kept": tokens * kept,
            "one layer computed again": tokens * again,
            "a chunk of logits": logits,
            "the evaluation's engine, first rank": self._engine_bytes(config, width),
        }

    def _engine_bytes(self, config: SftConfig, width: float) -> float:
        """Bytes of weights and KV of the engine that measures selfRef@k between steps."""
        return width * self.parameters + KV_CACHE_GIB * 2**30 if config.selfref else 0.0

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of a checkpoint of the training: what is trained and two moments, fp32."""
        return 12 * self.trained


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _products(config: PretrainedConfig, width: int) -> float:
    """Bytes per token of a layer's input, its products and its attention, `width` a number."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    products: int = 3 * config.hidden_size + 2 * config.intermediate_size
    attention: int = (2 * heads + 2 * kv_heads) * head_dim
    log_sum_exp: float = 4.0 * heads  # fp32
    return width * (products + attention) + log_sum_exp


class _CountedAttention(torch.autograd.Function):
    """Keeps for the backward what FlexAttention keeps: inputs, output and log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        out = torch.empty_like(query)
        lse = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, lse)
        return out


_attend: Callable[..., torch.Tensor] = _CountedAttention.apply


def _counted_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    dropout: float,
    scaling: float,
    sliding_window: int | None = None,
    position_ids: Any = None,
    use_cache: bool = False,
) -> tuple[Any, None]:
    """In the form that transformers calls; the keywords do not change what is kept."""
    return _attend(query, key, value).transpose(1, 2), None


AttentionInterface.register(_COUNTED, _counted_attention)


def _saved_bytes(hf: PreTrainedModel, dtype: torch.dtype, tokens: int = 128) -> float:
    """Bytes per token that autograd keeps of one layer, without parameters."""
    layer = hf.model.layers[0]
    kept: dict[int, int] = {}
    storages = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages.append(storage)  # a freed storage's id could be reused by another one
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"):
        hidden = torch.empty(1, tokens, hf.config.hidden_size, dtype=dtype)
        places = torch.zeros(1, tokens, dtype=torch.int64)
        rotation = type(hf.model.rotary_emb)(hf.config)
        # Where the rotation differs by layer, it is asked for that of one type.
        types = getattr(rotation, "layer_types", None) and [hf.config.layer_types[0]]
        rope = rotation(hidden, places, *(types or ()))
        hidden.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(
                hidden,
                position_embeddings=rope,
                position_ids=places,
                attention_mask=None,
                use_cache=False,
            )
    own = {parameter.untyped_storage()._cdata for parameter in layer.parameters()}
    own |= {part.untyped_storage()._cdata for part in rope}
    return sum(size for key, size in kept.items() if key not in own) / tokens
