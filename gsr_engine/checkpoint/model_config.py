"""The shape, rope and window of a decoder, read from `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gsr_engine.checkpoint.files import read_json
from gsr_engine.errors import CheckpointError, UnsupportedModel

SUPPORTED_ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
SUPPORTED_ROPE = ("default", "llama3", "yarn")
_ROPE_NUMBERS = {
    "default": ("rope_theta",),
    "llama3": ("rope_theta", "factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("rope_theta", "factor"),
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
        named = raw.get("architectures") or ["(none named)"]
        architecture = named[0] if isinstance(named, list) else named
        if architecture not in SUPPORTED_ARCHITECTURES:
            raise UnsupportedModel(
                f"architecture {architecture} is not supported; "
                f"supported are {', '.join(SUPPORTED_ARCHITECTURES)}"
            )
        if raw.get("hidden_act", "silu") != "silu":
            raise UnsupportedModel(
                f"hidden_act {raw['hidden_act']!r} is not supported, only 'silu'"
            )
        for name in ("mlp_bias", "attention_bias", "quantization_config"):
            if raw.get(name):
                raise UnsupportedModel(f"{name} is set, which is not supported")
        try:
            num_heads = int(raw["num_attention_heads"])
            config = cls(
                architecture=architecture,
                vocab_size=int(raw["vocab_size"]),
                hidden_size=int(raw["hidden_size"]),
                intermediate_size=int(raw["intermediate_size"]),
                num_layers=int(raw["num_hidden_layers"]),
                num_heads=num_heads,
                num_kv_heads=int(raw.get("num_key_value_heads") or num_heads),
                head_dim=int(raw.get("head_dim") or raw["hidden_size"] // num_heads),
                rms_norm_eps=float(raw["rms_norm_eps"]),
                max_position=int(raw["max_position_embeddings"]),
                tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
                qkv_bias=architecture.startswith("Qwen2"),
                qk_norm=architecture.startswith("Qwen3"),
                sliding_window=_sliding_window(raw, architecture),
                dtype=_checkpoint_dtype(raw),
                rope=_rope(raw),
            )
        except KeyError as error:
            raise CheckpointError(f"config.json lacks {error}") from None
        except (TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(f"config.json: {error}") from None
        config._check()
        return config

    def _check(self) -> None:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads")
        for name in (*sizes, "num_kv_heads", "head_dim", "max_position", "rms_norm_eps"):
            if not getattr(self, name) > 0:
                raise CheckpointError(f"config.json: {name} is {getattr(self, name)}")
        if self.head_dim % 2:
            raise CheckpointError(f"config.json: head_dim {self.head_dim} is odd")
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"config.json: num_attention_heads {self.num_heads} is no multiple of "
                f"num_key_value_heads {self.num_kv_heads}"
            )


def _checkpoint_dtype(raw: dict[str, Any]) -> str:
    # transformers 5 writes dtype, 4 torch_dtype. fp16 checkpoints are run in bf16.
    dtype = str(raw.get("dtype") or raw.get("torch_dtype") or "float32")
    return "float32" if dtype == "float32" else "bfloat16"


def _sliding_window(raw: dict[str, Any], architecture: str) -> int | None:
    # Mistral uses its window if it is given; Qwen only if use_sliding_window is set.
    if architecture.startswith("Qwen") and not raw.get("use_sliding_window"):
        return None
    if architecture.startswith("Llama"):
        return None
    window = raw.get("sliding_window")
    return None if window is None else int(window)


def _rope(raw: dict[str, Any]) -> dict[str, Any]:
    """The rotary parameters under the names of transformers 5.

    Transformers 5 keeps them all in rope_parameters, 4 in rope_theta and rope_scaling.
    """
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    rope.setdefault("rope_theta", raw.get("rope_theta", 10000.0))
    rope.setdefault("rope_type", rope.pop("type", "default"))
    if raw.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UnsupportedModel("partial_rotary_factor is not supported")
    if rope["rope_type"] not in SUPPORTED_ROPE:
        raise UnsupportedModel(
            f"rope type {rope['rope_type']!r} is not supported; "
            f"supported are {', '.join(SUPPORTED_ROPE)}"
        )
    for name in _ROPE_NUMBERS[rope["rope_type"]]:
        rope[name] = float(rope[name])
    if rope["rope_type"] != "default":
        rope.setdefault(
            "original_max_position_embeddings",
            raw.get("original_max_position_embeddings", raw["max_position_embeddings"]),
        )
    return rope
