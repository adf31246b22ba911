"""The shape, rope and window of a decoder, read from `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gsr_engine.checkpoint.fields import Fields
from gsr_engine.checkpoint.files import is_gguf, read_json
from gsr_engine.checkpoint.gguf.config import read_config as read_gguf
from gsr_engine.checkpoint.known_fields import check_fields
from gsr_engine.checkpoint.rope_config import read_rope
from gsr_engine.errors import CheckpointError, UnsupportedModel, shown


@dataclass(frozen=True, slots=True)
class Family:
    """What distinguishes a family of checkpoints, as transformers implements it.

    Attributes:
        model_type: its name in `config.json`.
        qkv_bias: whether the projections to queries, keys and values have biases.
        qk_norm: whether queries and keys are normalised per head.
        window_fields: the fields that say which layers attend to a sliding window.
        defaults: values of fields that are absent; null is a value of its own.
    """

    model_type: str
    qkv_bias: bool = False
    qk_norm: bool = False
    window_fields: tuple[str, ...] = ()
    defaults: dict[str, int] = field(default_factory=dict)


_QWEN_WINDOW = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
FAMILIES = {
    "LlamaForCausalLM": Family("llama"),
    "MistralForCausalLM": Family(
        "mistral",
        window_fields=("sliding_window",),
        defaults={"num_key_value_heads": 8, "sliding_window": 4096},
    ),
    "Qwen2ForCausalLM": Family(
        "qwen2",
        qkv_bias=True,
        window_fields=_QWEN_WINDOW,
        defaults={"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28},
    ),
    "Qwen3ForCausalLM": Family(
        "qwen3",
        qk_norm=True,
        window_fields=_QWEN_WINDOW,
        defaults={
            "num_key_value_heads": 32,
            "head_dim": 128,
            "sliding_window": 4096,
            "max_window_layers": 28,
        },
    ),
}
"""What engine and trainer reproduce, by the name in `architectures`."""

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


STORED_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a decoder of the Llama 3, Mistral, Qwen2/2.5 or Qwen3 family.

    Attributes:
        max_position: longest context in tokens. Yarn stretches it to `factor` times the original.
        tie_embeddings: whether the head is the embedding. `config.json` alone does not say it:
            a head of its own among the weights is used (`open_tensors`).
        sliding_window: the window in tokens of the layers that have one, None if no layer has.
        dtype: one of STORED_DTYPES, as the file names it; None if it does not.
        rope: the rotary parameters under transformers' names (rope_type, rope_theta, factor, ...).
        attention_dropout: share of attention weights that training drops; nothing else reads it.
        notes: what of `config.json` is not read, in words.
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
    dtype: str | None
    rope: dict[str, Any] = field(hash=False)
    attention_dropout: float = 0.0
    notes: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read `config.json`, in the spelling of transformers 4 or 5, or a GGUF's metadata.

        Raises:
            CheckpointError: the file or a field is missing, or a field has a bad value.
            UnsupportedModel: the architecture or a feature of it is not reproduced; see
                `checkpoint/known_fields.py`.
        """
        if not is_gguf(folder):
            return cls.from_dict(read_json(folder / "config.json"))
        raw = read_gguf(folder)
        try:
            return cls.from_dict(raw)
        except CheckpointError as error:  # it speaks of config.json
            raise type(error)(f"{folder.name}, as {error}") from None

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ModelConfig:
        """The same as `from_folder`, from a parsed `config.json`."""
        architecture = _architecture(raw)
        family = FAMILIES[architecture]
        unread = check_fields(raw, frozenset(family.window_fields))
        fields = Fields(_FILE, {**family.defaults, **raw})
        hidden, num_heads = _size(fields, "hidden_size"), _size(fields, "num_attention_heads")
        rope, unread_rope = read_rope(Fields(_FILE, raw))
        config = cls(
            architecture=architecture,
            vocab_size=_size(fields, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_size(fields, "intermediate_size"),
            num_layers=_size(fields, "num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=_num_kv_heads(fields, raw, num_heads),
            head_dim=_size(fields, "head_dim", hidden // num_heads),
            rms_norm_eps=fields.number("rms_norm_eps", 1e-30, 1.0),
            max_position=_max_position(fields, rope),
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            qkv_bias=family.qkv_bias,
            qk_norm=family.qk_norm,
            sliding_window=_sliding_window(fields, family),
            dtype=_checkpoint_dtype(fields),
            rope=rope,
            attention_dropout=fields.number("attention_dropout", 0.0, 1.0, 0.0),
            notes=_notes([*unread, *unread_rope]),
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


def _notes(unread: list[str]) -> tuple[str, ...]:
    return (f"{_FILE}: not read: {shown_names(unread)}",) if unread else ()


def shown_names(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"{name:.80}" for name in names[:5]) + more


def _size(fields: Fields, name: str, default: int | None = None) -> int:
    return fields.integer(name, 1, _MOST[name], default)


def _architecture(raw: dict[str, Any]) -> str:
    named = raw.get("architectures") or ["(none named)"]
    architecture = named[0] if isinstance(named, list) else named
    if not isinstance(architecture, str) or architecture not in FAMILIES:
        name = architecture if isinstance(architecture, str) else shown(architecture)
        raise UnsupportedModel(
            f"architecture {name:.80} is not supported; supported are {', '.join(FAMILIES)}"
        )
    kind = raw.get("model_type")
    if kind is not None and kind != FAMILIES[architecture].model_type:
        raise UnsupportedModel(
            f"{_FILE}: model_type {shown(kind)} is not that of {architecture}, which is "
            f"{FAMILIES[architecture].model_type!r}"
        )
    return architecture


def _num_kv_heads(fields: Fields, raw: dict[str, Any], num_heads: int) -> int:
    number = _size(fields, "num_key_value_heads", num_heads)
    # A family's default is that of its large models.
    return number if "num_key_value_heads" in raw else min(number, num_heads)


def _max_position(fields: Fields, rope: dict[str, Any]) -> int:
    stated = _size(fields, "max_position_embeddings")
    if rope["rope_type"] != "yarn":
        return stated
    stretched = int(rope["factor"] * rope["original_max_position_embeddings"])
    return max(stated, min(stretched, MOST_POSITIONS))


def _checkpoint_dtype(fields: Fields) -> str | None:
    # transformers 5 writes dtype, 4 torch_dtype.
    name = next((one for one in ("dtype", "torch_dtype") if fields.has(one)), None)
    if name is None:
        return None
    dtype = fields.text(name).removeprefix("torch.")
    if dtype not in STORED_DTYPES:
        raise UnsupportedModel(
            f"{_FILE}: {name} {shown(dtype)} is not supported; "
            f"supported are {', '.join(STORED_DTYPES)}"
        )
    return dtype


def _sliding_window(fields: Fields, family: Family) -> int | None:
    """The window of the layers that slide; Mistral slides in all of them, Qwen if it says so."""
    if not family.window_fields:
        return None
    used = "use_sliding_window" not in family.window_fields or fields.flag(
        "use_sliding_window", False
    )
    window = None
    if used and fields.has("sliding_window"):
        window = fields.integer("sliding_window", 1, 2**31 - 1)
    if "layer_types" not in family.window_fields:
        return window
    slides = _sliding_layers(fields)
    if slides and fields.has("layer_types") and window is None:
        raise UnsupportedModel(
            f"{_FILE}: layer_types has 'sliding_attention', but no sliding_window is in use"
        )
    return window if slides else None


def _sliding_layers(fields: Fields) -> bool:
    """Whether any layer of a Qwen slides: as layer_types says, or from max_window_layers on."""
    layers = _size(fields, "num_hidden_layers")
    if not fields.has("layer_types"):
        return fields.integer("max_window_layers", 0, 2**31 - 1, 28) < layers
    kinds = fields.raw["layer_types"]
    known = isinstance(kinds, list) and all(
        isinstance(kind, str) and kind in ("full_attention", "sliding_attention") for kind in kinds
    )
    if not known or len(kinds) != layers:
        raise UnsupportedModel(
            f"{_FILE}: layer_types must say full_attention or sliding_attention of {layers} "
            f"layers, got {shown(kinds)}"
        )
    return "sliding_attention" in kinds
