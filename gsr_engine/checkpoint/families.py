"""The families of checkpoints that engine and trainer reproduce: one entry each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gsr_engine.checkpoint import layer_kinds
from gsr_engine.checkpoint.layer_kinds import Sliding

NORMS_BEFORE = {
    "before_attention": "input_layernorm",
    "before_mlp": "post_attention_layernorm",
}
NORMS_AFTER = {
    "after_attention": "post_attention_layernorm",
    "after_mlp": "post_feedforward_layernorm",
}
NORMS_AROUND = {
    "before_attention": "input_layernorm",
    "after_attention": "post_attention_layernorm",
    "before_mlp": "pre_feedforward_layernorm",
    "after_mlp": "post_feedforward_layernorm",
}
"""The norms of a layer, by where they stand, and what transformers calls them."""


@dataclass(frozen=True, slots=True)
class Family:
    """What distinguishes a family of checkpoints, as transformers implements it.

    Attributes:
        model_type: its name in `config.json`.
        trained: whether the trainer reproduces it, too.
        qkv_bias: whether the projections to queries, keys and values have biases.
        qk_norm: queries and keys are normalised per "head", over the whole "projection", or not.
        norms: the norms of a layer: `NORMS_BEFORE` what follows, `NORMS_AFTER` it, or both.
        exact_norms: a norm multiplies with its weight in fp32, before it rounds.
        norm_offset: added to the stored weights of norms.
        gate: the activation of the feed-forward networks.
        fused: q, k, v are one tensor, and so are gate and up.
        experts: layers may have experts instead of one feed-forward network.
        scaled_embedding: embeddings are multiplied by the root of their size.
        score_field: attention scores are divided by the root of this field; None: of the head dim.
        scaled_queries: queries grow with their position (`llama_4_scaling_beta`).
        partial_rotary: the rotation may leave some dimensions of a head as they are.
        sliding: which layers attend to a sliding window.
        layer_ropes: layers that slide have rotary parameters of their own.
        rope_theta, sliding_theta: the base of the rotation where `config.json` names none.
        window_fields, reads: what is read of `config.json` for this family beside what is read of
            all: for `sliding`, and else.
        fixed: fields that must have this value if they are there.
        defaults: values of fields that are absent; null is a value of its own.
    """

    model_type: str
    trained: bool = True
    qkv_bias: bool = False
    qk_norm: Literal["head", "projection"] | None = None
    norms: Mapping[str, str] = field(default_factory=lambda: NORMS_BEFORE)
    exact_norms: bool = False
    norm_offset: float = 0.0
    gate: Literal["silu", "gelu_tanh"] = "silu"
    fused: bool = False
    experts: bool = False
    scaled_embedding: bool = False
    score_field: str | None = None
    scaled_queries: bool = False
    partial_rotary: bool = False
    sliding: Sliding = layer_kinds.no_layer
    layer_ropes: bool = False
    rope_theta: float = 10000.0
    sliding_theta: float = 10000.0
    window_fields: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


_QWEN_WINDOW = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
_QWEN_DEFAULTS = {
    "num_key_value_heads": 32,
    "sliding_window": 4096,
    "use_sliding_window": False,
    "max_window_layers": 28,
}

FAMILIES = {
    "LlamaForCausalLM": Family("llama"),
    "MistralForCausalLM": Family(
        "mistral",
        sliding=layer_kinds.every_layer,
        window_fields=("sliding_window",),
        defaults={"num_key_value_heads": 8, "sliding_window": 4096},
    ),
    "Qwen2ForCausalLM": Family(
        "qwen2",
        qkv_bias=True,
        sliding=layer_kinds.last_layers,
        window_fields=_QWEN_WINDOW,
        defaults=_QWEN_DEFAULTS,
    ),
    "Qwen3ForCausalLM": Family(
        "qwen3",
        qk_norm="head",
        sliding=layer_kinds.last_layers,
        window_fields=_QWEN_WINDOW,
        defaults={**_QWEN_DEFAULTS, "head_dim": 128},
    ),
    "Qwen3MoeForCausalLM": Family(
        "qwen3_moe",
        trained=False,
        qk_norm="head",
        experts=True,
        sliding=layer_kinds.every_layer,
        window_fields=("sliding_window", "use_sliding_window"),
        reads=(
            *("num_experts", "num_local_experts", "num_experts_per_tok", "norm_topk_prob"),
            *("moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers"),
        ),
        defaults={
            "num_key_value_heads": 4,
            "sliding_window": 4096,
            "use_sliding_window": False,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        },
    ),
    "Phi3ForCausalLM": Family(
        "phi3",
        fused=True,
        partial_rotary=True,
        sliding=layer_kinds.every_layer,
        window_fields=("sliding_window",),
        reads=("partial_rotary_factor",),
        defaults={"original_max_position_embeddings": 4096},
    ),
    "SmolLM3ForCausalLM": Family(
        "smollm3",
        rope_theta=2e6,
        sliding=layer_kinds.unrotated_layers,
        window_fields=("sliding_window", "use_sliding_window", "layer_types"),
        reads=("no_rope_layers", "no_rope_layer_interval"),
        defaults={
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "no_rope_layer_interval": 4,
        },
    ),
    "Olmo2ForCausalLM": Family("olmo2", qk_norm="projection", norms=NORMS_AFTER, exact_norms=True),
    "Olmo3ForCausalLM": Family(
        "olmo3",
        qk_norm="projection",
        norms=NORMS_AFTER,
        exact_norms=True,
        sliding=layer_kinds.three_of_four_layers,
        layer_ropes=True,
        rope_theta=5e5,
        sliding_theta=5e5,
        window_fields=("sliding_window", "layer_types"),
        defaults={"sliding_window": 4096},
    ),
    "Ministral3ForCausalLM": Family(
        "ministral3",
        scaled_queries=True,
        sliding=layer_kinds.every_layer,
        window_fields=("sliding_window",),
        defaults={"num_key_value_heads": 8, "head_dim": 128},
    ),
    "Gemma3ForCausalLM": Family(
        "gemma3_text",
        qk_norm="head",
        norms=NORMS_AROUND,
        exact_norms=True,
        norm_offset=1.0,
        gate="gelu_tanh",
        scaled_embedding=True,
        score_field="query_pre_attn_scalar",
        sliding=layer_kinds.five_of_six_layers,
        layer_ropes=True,
        rope_theta=1e6,
        window_fields=("sliding_window", "layer_types", "sliding_window_pattern"),
        reads=("query_pre_attn_scalar", "rope_local_base_freq"),
        fixed={"hidden_activation": "gelu_pytorch_tanh"},
        # `text_config` of the models that see images states what differs from these.
        defaults={
            "vocab_size": 262208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6,
            "head_dim": 256,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "query_pre_attn_scalar": 256,
            "tie_word_embeddings": True,
        },
    ),
}
"""What the engine reproduces, by the name in `architectures`."""
