"""The shape, rope and window of a decoder, read from `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gsr_engine.checkpoint.fields import Fields
from gsr_engine.checkpoint.files import read_json
from gsr_engine.checkpoint.rope_config import read_rope
from gsr_engine.errors import CheckpointError, UnsupportedModel, shown

SUPPORTED_ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
MOST_POSITIONS = 1 << 24
"""Upper limit of a context, because a table has a row for each position."""
_FILE = "config.json"
# A hundred times what the largest models of these families have, or more. Beyond them a single
# tensor, or the list of all tensors, would fill any machine.
_MOST = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 22,
    "num_hidden_layers": 1 << 12,
    "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14,
    "head_dim": 1 << 14,
    "max_position_embeddings": MOST_POSITIONS,
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a decoder of the Llama 3, Mistral, Qwen2/2.5 or Qwen3 family.

    `rope` holds the rotary parameters under transformers' names (rope_type, rope_theta, factor,
    ...). `sliding_window` is the window in tokens, None if the checkpoint uses none. `dtype` is
    "float32" or "bfloat16", which also stands for float16.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position: int
    tie_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    sliding_window: int | None
    dtype: str
    rope: dict[str, Any] = field(hash=False)

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read `config.json`, in the spelling of transformers 4 or 5.

        Raises:
            CheckpointError: the file or a field is missing, or a field has a bad value.
            UnsupportedModel: the engine lacks the architecture, activation, rope type, biases or
                quantization.
        """
        return cls.from_dict(read_json(folder / "config.json"))

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ModelConfig:
        """The same as `from_folder`, from a parsed `config.json`."""
        fields = Fields(_FILE, raw)
        architecture = _architecture(raw)
        _check_supported(raw)
        hidden, num_heads = _size(fields, "hidden_size"), _size(fields, "num_attention_heads")
        config = cls(
            architecture=architecture,
            vocab_size=_size(fields, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_size(fields, "intermediate_size"),
            num_layers=_size(fields, "num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=_size(fields, "num_key_value_heads", num_heads),
            head_dim=_size(fields, "head_dim", hidden // num_heads),
            rms_norm_eps=fields.number("rms_norm_eps", 1e-30, 1.0),
            max_position=_size(fields, "max_position_embeddings"),
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            qkv_bias=architecture.startswith("Qwen2"),
            qk_norm=architecture.startswith("Qwen3"),
            sliding_window=_sliding_window(fields, architecture),
            dtype=_checkpoint_dtype(fields),
            rope=read_rope(fields),
        )
        config._check()
        return config

    def _check(self) -> None:
        if self.head_dim % 2:
            raise CheckpointError(f"{_FILE}: head_dim {self.head_dim} is odd")
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"{_FILE}: num_attention_heads {self.num_heads} is no multiple of "
                f"num_key_value_heads {self.num_kv_heads}"
            )


def _size(fields: Fields, name: str, default: int | None = None) -> int:
    return fields.integer(name, 1, _MOST[name], default)


def _architecture(raw: dict[str, Any]) -> str:
    named = raw.get("architectures") or ["(none named)"]
    architecture = named[0] if isinstance(named, list) else named
    if architecture not in SUPPORTED_ARCHITECTURES:
        name = architecture if isinstance(architecture, str) else shown(architecture)
        raise UnsupportedModel(
            f"architecture {name:.80} is not supported; "
            f"supported are {', '.join(SUPPORTED_ARCHITECTURES)}"
        )
    return str(architecture)


def _check_supported(raw: dict[str, Any]) -> None:
    if raw.get("hidden_act", "silu") != "silu":
        raise UnsupportedModel(
            f"hidden_act {shown(raw['hidden_act'])} is not supported, only 'silu'"
        )
    for name in ("mlp_bias", "attention_bias", "quantization_config"):
        if raw.get(name):
            raise UnsupportedModel(f"{name} is set, which is not supported")


def _checkpoint_dtype(fields: Fields) -> str:
    # transformers 5 writes dtype, 4 torch_dtype. fp16 checkpoints are run in bf16.
    dtype = fields.text("dtype", fields.text("torch_dtype", "float32"))
    return "float32" if dtype == "float32" else "bfloat16"


def _sliding_window(fields: Fields, architecture: str) -> int | None:
    # Mistral uses its window if it is given; Qwen only if use_sliding_window is set.
    if architecture.startswith("Llama") or not fields.has("sliding_window"):
        return None
    if architecture.startswith("Qwen") and not fields.flag("use_sliding_window", False):
        return None
    return fields.integer("sliding_window", 1, 2**31 - 1)
