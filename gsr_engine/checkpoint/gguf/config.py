"""The metadata of a GGUF file as the `config.json` that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsr_engine.checkpoint.families import FAMILIES, Family
from gsr_engine.checkpoint.fields import Fields
from gsr_engine.checkpoint.gguf.families import GgufFamily, family_of
from gsr_engine.checkpoint.gguf.header import GgufHeader, read_header
from gsr_engine.checkpoint.gguf.rope import READ as ROPE_FIELDS
from gsr_engine.checkpoint.gguf.rope import rope_scaling
from gsr_engine.errors import CheckpointError, UnsupportedModel, shown

_PATTERN = "attention.sliding_window_pattern"
_SHAPE = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
"""Fields behind the architecture's name that every file must have."""
_CHANGING = {
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
    "attention.scale": "attention_scale",
    "attention.clamp_kqv": "clip_qkv",
    "attention.max_alibi_bias": "alibi",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "use_parallel_residual": "use_parallel_residual",
}
"""Fields that change what a model computes: the check of `config.json` refuses them by name."""
_FIXED: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.temperature_scale": (0,),
    "expert_gating_func": (1,),
    "expert_group_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_weights_norm": (True,),
    "expert_weights_scale": (0, 1),
}
"""Fields that change what a model computes, and the only values that are reproduced."""
_ELSEWHERE = frozenset(
    {
        *("attention.head_count_kv", "attention.key_length", "attention.value_length"),
        *("attention.sliding_window", _PATTERN, "expert_feed_forward_length"),
        *("vocab_size", "tensor_data_layout"),
        *(f"rope.{name}" for name in ROPE_FIELDS),
    }
)
"""Fields that are read one by one; `tensor_data_layout` has no effect."""
_LAYERS_OF_27B, _MOST_LAYERS = 62, 1 << 12
_TOKENIZER = frozenset(
    {
        *("model", "pre", "tokens", "token_type", "scores", "merges"),
        *("add_bos_token", "add_eos_token", "add_space_prefix"),
        *("bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id"),
        *("unknown_token_id", "padding_token_id"),
        # Roles that no text or stream of the engine has.
        *("seperator_token_id", "cls_token_id", "mask_token_id", "token_type_count"),
        *(f"fim_{part}_token_id" for part in ("pre", "suf", "mid", "pad", "rep", "sep")),
        *(f"{part}_token_id" for part in ("prefix", "suffix", "middle")),
    }
)
"""Fields behind `tokenizer.ggml.` that are read, or have no effect."""
EMBEDDING, HEAD = "token_embd.weight", "output.weight"


def read_config(path: Path) -> dict[str, Any]:
    """The object of `config.json` that a file stands for; `ModelConfig.from_dict` reads it.

    Raises:
        CheckpointError: the file is broken, or lacks a field.
        UnsupportedModel: it is of another architecture, or states what is not reproduced.
    """
    header = read_header(path)
    family = family_of(header)
    own = _own_fields(header)
    _check_fixed(header, family, own)
    architecture = family.name_of(own)
    shape = {name: own[field] for field, name in _SHAPE.items() if field in own}
    changing = {name: own[field] for field, name in _CHANGING.items() if field in own}
    return {
        "architectures": [architecture],
        **shape,
        **changing,
        **family.assumed,
        **_heads(header, own),
        **_windows(header, family, own),
        **_score_size(own, FAMILIES[architecture]),
        **_experts(own, FAMILIES[architecture]),
        **_biases(header, family),
        **_ropes(header, family, own),
        "vocab_size": _vocab_size(header, own),
        "tie_word_embeddings": HEAD not in header.tensors,
        "dtype": _dtype(header),
    }


def unread_fields(header: GgufHeader) -> list[str]:
    """Names of fields that are not read, but for those that only describe the file."""
    read = _SHAPE.keys() | _CHANGING.keys() | _FIXED.keys() | _ELSEWHERE
    prefix = header.fields.text("general.architecture") + "."
    own = _own_fields(header)
    unread = [prefix + name for name in own if name not in read]
    known = {"tokenizer.chat_template"} | {f"tokenizer.ggml.{name}" for name in _TOKENIZER}
    unread += [one for one in header.metadata if one.startswith("tokenizer.") and one not in known]
    return unread


def sampling_fields(path: Path) -> dict[str, Any]:
    """How a file wants to be sampled, under the names of `generation_config.json`.

    Its penalty counts the last tokens only, not all of a stream, so it keeps llama.cpp's name.

    Raises:
        CheckpointError: the file is broken.
    """
    prefix = "general.sampling."
    stated = {
        name.removeprefix(prefix): value
        for name, value in read_header(path).metadata.items()
        if name.startswith(prefix)
    }
    return {"temperature" if name == "temp" else name: value for name, value in stated.items()}


def _own_fields(header: GgufHeader) -> dict[str, Any]:
    """The architecture's fields, without its name."""
    prefix = header.fields.text("general.architecture") + "."
    return {
        name.removeprefix(prefix): value
        for name, value in header.metadata.items()
        if name.startswith(prefix)
    }


def _heads(header: GgufHeader, own: dict[str, Any]) -> dict[str, Any]:
    heads, hidden = own.get("attention.head_count"), own.get("embedding_length")
    fields: dict[str, Any] = {"num_key_value_heads": own.get("attention.head_count_kv", heads)}
    size = own.get("attention.key_length")
    if size is None:
        size = _share(hidden, heads)
    fields["head_dim"] = size
    if own.get("attention.value_length", size) != size:
        raise UnsupportedModel(f"{header.path.name}: values and keys of other sizes")
    rotary = own.get("rope.dimension_count", size)
    if rotary != size and isinstance(size, int) and size > 0 and isinstance(rotary, int):
        fields["partial_rotary_factor"] = rotary / size
    return fields


def _check_fixed(header: GgufHeader, family: GgufFamily, own: dict[str, Any]) -> None:
    for name, values in _FIXED.items():
        marks = family.marked is not None and name == family.marked[0]
        if not marks and own.get(name, values[0]) not in values:
            raise UnsupportedModel(
                f"{header.path.name}: {name} {shown(own[name])} is not supported, "
                f"only {values[0]!r}"
            )


def _windows(header: GgufHeader, family: GgufFamily, own: dict[str, Any]) -> dict[str, Any]:
    """The window, and which layers have it if the file says it."""
    architecture = family.name_of(own)
    window = own.get("attention.sliding_window") or None
    if window is not None and not family.windowed:
        raise UnsupportedModel(
            f"{header.path.name}: a sliding window is not supported for {architecture}"
        )
    fields = {"sliding_window": window}
    pattern = own.get(_PATTERN) if window is not None else 1
    if pattern is None:
        return fields
    if "layer_types" in FAMILIES[architecture].window_fields:
        return {**fields, "layer_types": _layer_types(header, own, pattern)}
    if window is not None:
        raise UnsupportedModel(
            f"{header.path.name}: {_PATTERN} {shown(pattern)} is not supported for {architecture}"
        )
    return fields


def _layer_types(header: GgufHeader, own: dict[str, Any], pattern: Any) -> list[str]:
    """A pattern says of each layer whether it slides, or that each n-th does not."""
    slides = pattern
    if not isinstance(pattern, list):
        layers = Fields(header.path.name, own).integer("block_count", 1, _MOST_LAYERS)
        each = Fields(header.path.name, {_PATTERN: pattern}).integer(_PATTERN, 1, 2**31 - 1)
        slides = [(layer + 1) % each != 0 for layer in range(layers)]
    return ["sliding_attention" if one else "full_attention" for one in slides]


def _score_size(own: dict[str, Any], family: Family) -> dict[str, Any]:
    """What scores are divided by the root of; no field says it.

    llama.cpp takes the head dim, but for the Gemma 3 of 27B, which it knows by its 62 layers.
    Source: https://github.com/ggml-org/llama.cpp/blob/master/src/models/gemma3.cpp
    """
    if family.score_field is None:
        return {}
    heads, hidden = own.get("attention.head_count"), own.get("embedding_length")
    size = own.get("attention.key_length")
    if own.get("block_count") == _LAYERS_OF_27B or size is None:
        size = _share(hidden, heads)
    return {family.score_field: size}


def _experts(own: dict[str, Any], family: Family) -> dict[str, Any]:
    if not family.experts:
        return {}
    size = own.get("expert_feed_forward_length")
    if size is None:
        size = _share(own.get("feed_forward_length"), own.get("expert_used_count"))
    return {"moe_intermediate_size": size}


def _ropes(header: GgufHeader, family: GgufFamily, own: dict[str, Any]) -> dict[str, Any]:
    """The rotary parameters; layers that slide have theirs where the family has two kinds."""
    theta, scaling = own.get("rope.freq_base", 10000.0), rope_scaling(header, own)
    if beta := own.get("attention.temperature_scale"):
        scaling = {"rope_type": "default", **(scaling or {}), "llama_4_scaling_beta": beta}
    if not FAMILIES[family.name_of(own)].layer_ropes:
        if own.get("rope.freq_base_swa", theta) != theta:
            raise UnsupportedModel(
                f"{header.path.name}: rope.freq_base_swa is not supported for {family.name_of(own)}"
            )
        name = "original_max_position_embeddings"  # of Phi-3 the one outside of the scaling counts
        return {"rope_theta": theta, "rope_scaling": scaling, name: (scaling or {}).get(name)}
    default = theta if family.sliding_theta is None else family.sliding_theta
    sliding = {"rope_theta": own.get("rope.freq_base_swa", default)}
    full = {"rope_theta": theta, **(scaling or {})}
    return {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}


def _share(whole: Any, parts: Any) -> int | None:
    known = isinstance(whole, int) and isinstance(parts, int) and parts > 0
    return whole // parts if known else None


def _biases(header: GgufHeader, family: GgufFamily) -> dict[str, Any]:
    """Biases that the family has not, as `config.json` would state them."""
    named = {name.split(".")[-2] for name in header.tensors if name.endswith(".bias")}
    found = named - family.biases
    return {
        "attention_bias": any(name.startswith("attn") for name in found),
        "mlp_bias": any(not name.startswith("attn") for name in found),
    }


def _vocab_size(header: GgufHeader, own: dict[str, Any]) -> int:
    if EMBEDDING not in header.tensors:
        raise CheckpointError(f"{header.path.name} has no tensor {EMBEDDING}")
    rows = header.tensors[EMBEDDING].shape[0]
    Fields(header.path.name, own).integer("vocab_size", 1, rows, rows)
    return rows


def _dtype(header: GgufHeader) -> str:
    """The dtype that is nearest to the matrices; vectors are fp32. Blocks have factors in fp16."""
    kinds = {tensor.kind for tensor in header.tensors.values() if len(tensor.shape) > 1}
    if kinds <= {"F32"}:
        return "float32"
    return "bfloat16" if kinds <= {"F32", "BF16"} else "float16"
