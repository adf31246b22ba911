"""The shape of a decoder and the kinds of its layers, read from `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gsr_engine.checkpoint.families import FAMILIES, Family
from gsr_engine.checkpoint.fields import Fields
from gsr_engine.checkpoint.files import is_gguf, read_json
from gsr_engine.checkpoint.fp8 import Fp8Config
from gsr_engine.checkpoint.gguf.config import read_config as read_gguf
from gsr_engine.checkpoint.image_models import IMAGE_MODELS, language_model
from gsr_engine.checkpoint.known_fields import READ, check_fields
from gsr_engine.checkpoint.layer_kinds import (
    LayerKind,
    expert_layers,
    layer_windows,
    rotated_layers,
)
from gsr_engine.checkpoint.rope_config import Rope, check_rotated, query_scaling, read_ropes
from gsr_engine.errors import CheckpointError, UnsupportedModel, shown

RECURRENT = (
    *("Qwen3Next", "Qwen3_5", "Qwen4", "Kimi", "NemotronH", "FalconH1", "FalconMamba", "Mamba"),
    *("Lfm2", "Lfm3", "Jamba", "Bamba", "Zamba", "GraniteMoeHybrid", "RecurrentGemma", "Rwkv"),
)
"""What the names of architectures with Gated DeltaNet, Mamba or the like begin with."""
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
    "num_experts": 1 << 14,
    "moe_intermediate_size": 1 << 22,
    "max_position_embeddings": MOST_POSITIONS,
}


STORED_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """The experts of the layers that have some.

    Attributes:
        number: experts of a layer.
        per_token: how many of them a token goes through.
        intermediate_size: of one expert.
        normalise: whether the weights of a token's experts are scaled to a sum of 1.
    """

    number: int
    per_token: int
    intermediate_size: int
    normalise: bool


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a decoder of one of `FAMILIES`.

    Attributes:
        intermediate_size: of a feed-forward network; layers with experts have their own.
        max_position: longest context in tokens. Yarn stretches it to `factor` times the original.
        tie_embeddings: whether the head is the embedding. `config.json` alone does not say it:
            a head of its own among the weights is used (`open_tensors`).
        layers: the kind of each layer.
        score_scale: multiplies the scores of attention.
        query_scaling: (beta, length) by which queries grow with their position, or None; see
            `rope_config.query_scaling`.
        experts: None if no layer has experts.
        dtype: one of STORED_DTYPES, as the file names it; None if it does not.
        attention_dropout: share of attention weights that training drops; nothing else reads it.
        fp8: how weights that are stored in fp8 are scaled; None if none are.
        notes: what of `config.json` is not read, in words.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position: int
    tie_embeddings: bool
    layers: tuple[LayerKind, ...]
    score_scale: float
    query_scaling: tuple[float, int] | None
    experts: ExpertsConfig | None
    dtype: str | None
    attention_dropout: float = 0.0
    fp8: Fp8Config | None = field(default=None, compare=False)
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
        raw, images = language_model(raw)
        architecture = _architecture(raw)
        family = FAMILIES[architecture]
        own = frozenset((*family.window_fields, *family.reads, *family.fixed))
        unread = check_fields(raw, own)
        fp8, unread_fp8 = Fp8Config.from_dict(raw)
        raw = {name: value for name, value in raw.items() if name in READ or name in own}
        if family.experts and raw.get("num_local_experts") is not None:
            raw["num_experts"] = raw["num_local_experts"]  # as transformers 5 writes it
        fields = Fields(_FILE, {**family.defaults, **raw})
        _check_fixed(fields, family)
        hidden, num_heads = _size(fields, "hidden_size"), _size(fields, "num_attention_heads")
        head_dim = _size(fields, "head_dim", hidden // num_heads)
        full, sliding, unread_rope = read_ropes(fields, family)
        score_size: float = head_dim
        if family.score_field is not None:
            score_size = fields.number(family.score_field, 1e-6, 1e9)
        config = cls(
            architecture=architecture,
            vocab_size=_size(fields, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_size(fields, "intermediate_size"),
            num_heads=num_heads,
            num_kv_heads=_num_kv_heads(fields, raw, num_heads),
            head_dim=head_dim,
            rms_norm_eps=fields.number("rms_norm_eps", 1e-30, 1.0),
            max_position=_max_position(fields, full),
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            layers=_layers(fields, family, full, sliding),
            score_scale=score_size**-0.5,
            query_scaling=query_scaling(full) if family.scaled_queries else None,
            experts=_experts(fields) if family.experts else None,
            dtype=_checkpoint_dtype(fields),
            attention_dropout=fields.number("attention_dropout", 0.0, 1.0, 0.0),
            fp8=fp8,
            notes=(*([images] if images else []), *_notes([*unread, *unread_rope, *unread_fp8])),
        )
        config._check()
        return config

    @property
    def family(self) -> Family:
        """What distinguishes its family from others."""
        return FAMILIES[self.architecture]

    @property
    def num_layers(self) -> int:
        """The number of layers."""
        return len(self.layers)

    @property
    def shortest_window(self) -> int | None:
        """The shortest window that a layer has, None if all layers see the whole context."""
        return min((kind.window for kind in self.layers if kind.window is not None), default=None)

    @property
    def rope(self) -> Rope:
        """The rotary parameters of the layers that see the whole context, or of the first layer.

        Layers without a rotation do not count.
        """
        rotated = [(kind.window, kind.rope) for kind in self.layers if kind.rope is not None]
        full = [rope for window, rope in rotated if window is None]
        return next(iter([*full, *(rope for _, rope in rotated)]), {"rope_type": "default"})

    def _check(self) -> None:
        if self.head_dim % 2:
            raise CheckpointError(f"{_FILE}: head_dim {self.head_dim} is odd")
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"{_FILE}: num_attention_heads {self.num_heads} is no multiple of "
                f"num_key_value_heads {self.num_kv_heads}"
            )
        for kind in self.layers:
            if kind.rope is not None:
                check_rotated(kind.rope, self.head_dim)


def _check_fixed(fields: Fields, family: Family) -> None:
    for name, value in family.fixed.items():
        if fields.has(name) and fields.raw[name] != value:
            raise UnsupportedModel(
                f"{_FILE}: {name} {shown(fields.raw[name])} is not supported, only {value!r}"
            )


def _layers(fields: Fields, family: Family, full: Rope, sliding: Rope) -> tuple[LayerKind, ...]:
    layers = _size(fields, "num_hidden_layers")
    windows = layer_windows(fields, family.sliding, layers)
    rotated = rotated_layers(fields, layers)
    experts = expert_layers(fields, layers)
    return tuple(
        LayerKind(window, (full if window is None else sliding) if rotates else None, several)
        for window, rotates, several in zip(windows, rotated, experts, strict=True)
    )


def _experts(fields: Fields) -> ExpertsConfig:
    number = _size(fields, "num_experts")
    return ExpertsConfig(
        number=number,
        per_token=fields.integer("num_experts_per_tok", 1, number),
        intermediate_size=_size(fields, "moe_intermediate_size"),
        normalise=fields.flag("norm_topk_prob", False),
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
        families = ", ".join(one.removesuffix("ForCausalLM") for one in FAMILIES)
        raise UnsupportedModel(
            f"architecture {name:.80} is not supported{_reason(name)}; supported are {families} "
            f"(ForCausalLM), {', '.join(IMAGE_MODELS)}"
        )
    kind = raw.get("model_type")
    if kind is not None and kind != FAMILIES[architecture].model_type:
        raise UnsupportedModel(
            f"{_FILE}: model_type {shown(kind)} is not that of {architecture}, which is "
            f"{FAMILIES[architecture].model_type!r}"
        )
    return architecture


def _reason(architecture: str) -> str:
    if any(architecture.startswith(kind) for kind in RECURRENT):
        return (
            ": its recurrent layers keep one state for a sequence. A fork would have to copy it, "
            "and no rule joins the states of candidates"
        )
    return ""


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
