"""What llama.cpp's converter writes of a checkpoint of transformers: fields and tensors.

Source: https://github.com/ggml-org/llama.cpp/tree/master/conversion
"""

from __future__ import annotations

import math
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

ARCHITECTURES = {
    **{kind: kind for kind in ("llama", "qwen2", "qwen3", "phi3", "smollm3", "olmo2")},
    "mistral": "mistral3",
    "qwen3_moe": "qwen3moe",
    "olmo3": "olmo2",
    "ministral3": "mistral3",
    "gemma3_text": "gemma3",
}
"""By the type in transformers. A Mistral is written here as the one of Mistral Small 3 is."""
_PAIRED = ("llama", "smollm3", "mistral3")
Array = np.ndarray[Any, Any]


def architecture(config: PreTrainedConfig) -> str:
    """The name in `general.architecture`."""
    return ARCHITECTURES[config.model_type]


def shape(model: PreTrainedModel) -> dict[str, Any]:
    """The fields of the architecture, without its name."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    fields: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    kind = architecture(config)
    if kind == "phi3":
        return fields | _phi3(config, head_dim)
    fields |= _rope(config.rope_parameters)
    if getattr(config, "head_dim", None) is not None:
        fields |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if kind in _PAIRED:
        fields |= {"rope.dimension_count": head_dim, "vocab_size": config.vocab_size}
    if kind == "qwen3moe":
        fields |= {
            "expert_count": config.num_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
        }
    if config.model_type == "ministral3":
        rope = config.rope_parameters
        fields["rope.scaling.yarn_log_multiplier"] = rope["mscale_all_dim"]
        fields["attention.temperature_scale"] = rope["llama_4_scaling_beta"]
    if config.model_type in ("gemma3_text", "olmo3"):
        fields["attention.sliding_window"] = config.sliding_window
    if config.model_type == "olmo3":
        slides = [kind == "sliding_attention" for kind in config.layer_types]
        fields["attention.sliding_window_pattern"] = slides
    return fields


def stored_tensors(model: PreTrainedModel) -> dict[str, Array]:
    """The tensors under their names in a file, in fp32."""
    config = model.config
    known = next(one for one, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture(config))
    names = gguf.get_tensor_name_map(known, config.num_hidden_layers)
    written = {}
    for name, values in _by_part(model).items():
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        written[theirs] = _values(config, name, values.numpy())
    rope = config.rope_parameters
    for which in ("short", "long"):
        if rope.get(f"{which}_factor"):
            written[f"rope_factors_{which}.weight"] = np.array(rope[f"{which}_factor"], "f4")
    return written


def _by_part(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights with gate and up of the experts apart, as the hub has them, all of a layer."""
    parts: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("experts.gate_up_proj"):
            gate, up = tensor.chunk(2, dim=1)
            prefix = name.removesuffix("gate_up_proj")
            parts |= {f"{prefix}gate_proj.weight": gate, f"{prefix}up_proj.weight": up}
        elif name.endswith("experts.down_proj"):
            parts[name + ".weight"] = tensor
        elif name != "lm_head.weight" or not model.config.tie_word_embeddings:
            parts[name] = tensor
    return parts


def _values(config: PreTrainedConfig, name: str, values: Array) -> Array:
    """Rotary pairs of a Llama stand beside each other; norms of Gemma have 1 added."""
    kind = architecture(config)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    part = name.split(".")[-2]
    if kind in _PAIRED and part in heads:
        halves = values.reshape(heads[part], 2, -1, *values.shape[1:])
        return halves.swapaxes(1, 2).reshape(values.shape)
    if kind == "gemma3" and name.endswith("norm.weight"):
        return values + np.float32(1)
    return values


def _rope(parameters: dict[str, Any]) -> dict[str, Any]:
    full = parameters.get("full_attention", parameters)
    fields = {"rope.freq_base": float(full["rope_theta"])}
    if "sliding_attention" in parameters:
        fields["rope.freq_base_swa"] = float(parameters["sliding_attention"]["rope_theta"])
    scaling = {
        "type": full["rope_type"],
        "factor": full.get("factor"),
        "original_context_length": full.get("original_max_position_embeddings"),
        "yarn_attn_factor": full.get("attention_factor"),
        "yarn_beta_fast": full.get("beta_fast"),
        "yarn_beta_slow": full.get("beta_slow"),
    }
    if full["rope_type"] in ("linear", "yarn"):
        fields |= {f"rope.scaling.{name}": value for name, value in scaling.items()}
    return fields


def _phi3(config: PreTrainedConfig, head_dim: int) -> dict[str, Any]:
    rope = config.rope_parameters
    original = rope.get("original_max_position_embeddings", 4096)
    partial = rope.get("partial_rotary_factor", 1.0)
    factor = config.max_position_embeddings / original
    root = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return {
        "rope.dimension_count": int(partial * config.hidden_size) // config.num_attention_heads,
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": root if rope.get("long_factor") else None,
        "attention.sliding_window": config.sliding_window or 0,
    }
