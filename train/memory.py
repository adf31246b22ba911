"""What a run would take on every GPU: arithmetic over the model's shape, on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from train.evaluation import KV_CACHE_GIB
from train.lora import add_adapters
from train.loss import CHUNK
from train.sft_config import Checkpointing, SftConfig

_COUNTED = "gsr_counted"


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Parameters, and bytes of activations.

    Attributes:
        parameters: all of them; `trained`: those that have gradients; `layer`: of one layer;
            `root`: embedding, last norm and head.
        layers: how many.
        saved: bytes per token that the backward of one layer needs, by checkpointing.
        again: bytes per token that one layer holds while it is computed again.
    """

    parameters: int
    trained: int
    layer: int
    root: int
    layers: int
    saved: dict[Checkpointing, float]
    again: float

    @classmethod
    def of(cls, model_config: PretrainedConfig, lora: int = 0) -> ModelSize:
        """Counted on the real layers of transformers, without any values."""
        with torch.device("meta"):
            hf = AutoModelForCausalLM.from_config(
                model_config, dtype=torch.bfloat16, attn_implementation=_COUNTED
            )
        parameters, layer = _count(hf), _count(hf.model.layers[0])
        layers = len(hf.model.layers)
        if lora:
            add_adapters(hf, lora)
        whole = _saved_bytes(hf)
        return cls(
            parameters=parameters,
            trained=sum(p.numel() for p in hf.parameters() if p.requires_grad),
            layer=layer,
            root=parameters - layers * layer,
            layers=layers,
            saved={
                "none": whole,
                "selective": _products(model_config),
                "full": 2.0 * model_config.hidden_size,
            },
            again=whole,
        )

    def bytes_per_gpu(self, config: SftConfig, shards: int) -> dict[str, float]:
        """What is held at the worst moment, the beginning of the backward, by kind.

        Args:
            config: of the run.
            shards: GPUs that share one copy of the state.
        """
        logits = 10.0 * CHUNK  # bf16, fp32, and their gradients
        again = self.again if config.checkpointing != "none" else 0.0
        kept = self.layers * self.saved[config.checkpointing]
        reduced = 0.0 if config.lora else 6.0  # adapters are next to nothing
        return {
            "parameters, fp32, sharded": 4 * self.parameters / shards,
            "gradients, fp32, sharded": 4 * self.trained / shards,
            "AdamW's two moments, fp32, sharded": 8 * self.trained / shards,
            "two layers gathered, bf16": 4.0 * self.layer,
            "a layer's gradients, bf16, and the copy that is reduced, fp32": reduced * self.layer,
            "embedding and head gathered, bf16": 2.0 * self.root,
            "theirs, bf16, and the copy that is reduced, fp32": reduced * self.root,
            "activations kept": config.pack * kept,
            "one layer computed again": config.pack * again,
            "a chunk of logits": logits,
            "the evaluation's engine, first GPU": self._engine_bytes(config),
        }

    def _engine_bytes(self, config: SftConfig) -> float:
        """Weights and KV of the engine that measures selfRef@k between steps."""
        return 2.0 * self.parameters + KV_CACHE_GIB * 2**30 if config.selfref else 0.0


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _products(config: PretrainedConfig) -> float:
    """Bytes per token of a layer's input, its products and its attention, all in bf16."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    products = 3 * config.hidden_size + 2 * config.intermediate_size
    attention = (2 * heads + 2 * kv_heads) * head_dim
    return 2.0 * (products + attention) + 4.0 * heads  # the last: log-sum-exp, fp32


class _CountedAttention(torch.autograd.Function):
    """Keeps for the backward what FlexAttention keeps: its inputs, its output, log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        out = torch.empty_like(query)
        lse = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, lse)
        return out


def _counted_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **_: Any
) -> tuple[Any, None]:
    out = _CountedAttention.apply(query, key, value)
    return out.transpose(1, 2), None  # type: ignore[union-attr]


AttentionInterface.register(_COUNTED, _counted_attention)


def _saved_bytes(hf: PreTrainedModel, tokens: int = 128) -> float:
    """Bytes per token that autograd keeps of one layer, parameters aside."""
    layer = hf.model.layers[0]
    kept: dict[int, int] = {}
    storages = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages.append(storage)  # else its id may be given to another
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"):
        hidden = torch.empty(1, tokens, hf.config.hidden_size, dtype=torch.bfloat16)
        places = torch.zeros(1, tokens, dtype=torch.int64)
        rope = type(hf.model.rotary_emb)(hf.config)(hidden, places)
        hidden.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(hidden, position_embeddings=rope, attention_mask=None, use_cache=False)
    own = {parameter.untyped_storage()._cdata for parameter in layer.parameters()}
    own |= {part.untyped_storage()._cdata for part in rope}
    return sum(size for key, size in kept.items() if key not in own) / tokens
