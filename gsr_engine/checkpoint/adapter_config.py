"""The `adapter_config.json` of a LoRA adapter, as peft writes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from gsr_engine.checkpoint.fields import Fields
from gsr_engine.checkpoint.files import read_json
from gsr_engine.checkpoint.model_config import shown_names
from gsr_engine.errors import CheckpointError, UnsupportedModel, shown

ADAPTER_CONFIG = "adapter_config.json"
MOST_RANK = 1 << 16
MOST_ALPHA = 1e6
_SECONDS = 0.5
"""Most that one pattern may take for one name: a bad one would never end."""

_READ = frozenset(
    {
        *("peft_type", "task_type", "r", "lora_alpha", "use_rslora", "rank_pattern"),
        *("alpha_pattern", "bias", "init_lora_weights", "base_model_name_or_path"),
    }
)
_WITHOUT_EFFECT = frozenset(
    {
        # Which modules are adapted: the names of the tensors say that.
        *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform"),
        "layers_pattern",
        # How it was trained, and settings of kinds that are refused.
        *("lora_dropout", "inference_mode", "auto_mapping", "revision", "peft_version"),
        *("eva_config", "corda_config", "loftq_config", "lora_ga_config", "runtime_config"),
        *("qalora_group_size", "megatron_core"),
        # peft turns it off for linear layers, and the families have no others.
        "fan_in_fan_out",
    }
)
_REFUSED = (
    *("use_dora", "lora_bias", "use_qalora", "use_bdlora", "layer_replication"),
    *("trainable_token_indices", "target_parameters", "alora_invocation_tokens"),
    *("arrow_config", "kasa_config", "monteclora_config", "velora_config"),
    *("megatron_config", "ensure_weight_tying"),
)
"""Fields that make more of an adapter than W + scale B A. Null, false and empty change nothing."""
_PLAIN_INITS: tuple[object, ...] = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
"""Ways to begin that leave the base model's weights as they are."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """How strongly an adapter counts: a weight becomes W + scale B A.

    Attributes:
        rank: rows of A, columns of B.
        alpha: the scale is alpha / rank.
        rslora: the scale is alpha / sqrt(rank) instead (arXiv 2312.03732).
        ranks: ranks of single modules, by regular expressions for the ends of their names.
        alphas: likewise for alpha.
        base: the model that it was trained over, as the file names it.
        notes: what of the file is not read, in words.
    """

    rank: int
    alpha: float
    rslora: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    base: str
    notes: tuple[str, ...]

    @classmethod
    def from_folder(cls, folder: Path) -> AdapterConfig:
        """Read the file.

        Raises:
            CheckpointError: it is missing or broken, or a field has a bad value.
            UnsupportedModel: it is no LoRA adapter, or one that is more than W + scale B A.
        """
        raw = read_json(folder / ADAPTER_CONFIG)
        fields = Fields(str(folder / ADAPTER_CONFIG), raw)
        _check_kind(fields)
        return cls(
            rank=fields.integer("r", 1, MOST_RANK),
            alpha=fields.number("lora_alpha", -MOST_ALPHA, MOST_ALPHA),
            rslora=fields.flag("use_rslora", False),
            ranks={
                key: values.integer(key, 1, MOST_RANK)
                for key, values in _patterns(fields, "rank_pattern")
            },
            alphas={
                key: values.number(key, -MOST_ALPHA, MOST_ALPHA)
                for key, values in _patterns(fields, "alpha_pattern")
            },
            base=fields.text("base_model_name_or_path", ""),
            notes=_notes(raw),
        )

    def rank_of(self, module: str) -> int:
        """The rank of a module's adapter. Raises CheckpointError for a pattern without end."""
        return _of_pattern(self.ranks, module) or self.rank

    def scale_of(self, module: str) -> float:
        """What B A is multiplied by. Raises CheckpointError as `rank_of`."""
        alpha = _of_pattern(self.alphas, module)
        rank = self.rank_of(module)
        return (self.alpha if alpha is None else alpha) / (math.sqrt(rank) if self.rslora else rank)


def _check_kind(fields: Fields) -> None:
    for name, usual in (("peft_type", "LORA"), ("task_type", "CAUSAL_LM"), ("bias", "none")):
        if (value := fields.text(name, usual)) != usual:
            raise UnsupportedModel(
                f"{fields.where}: {name} {shown(value)} is not supported, only {usual!r}"
            )
    for name in _REFUSED:
        if fields.raw.get(name):
            raise UnsupportedModel(
                f"{fields.where}: {name} {shown(fields.raw[name])} is not supported"
            )
    begin = fields.raw.get("init_lora_weights")
    if begin not in _PLAIN_INITS:
        raise UnsupportedModel(
            f"{fields.where}: init_lora_weights {shown(begin)} changes the base model's weights as "
            "well: convert the adapter by peft's save_pretrained with "
            "path_initial_model_for_weight_conversion"
        )


def _patterns(fields: Fields, name: str) -> list[tuple[str, Fields]]:
    """The keys of a mapping from regular expressions, each with the fields that hold its value."""
    raw = fields.mapping(name)
    for key in raw:
        try:
            regex.compile(_ending(key))
        except (regex.error, RecursionError, OverflowError) as error:
            raise fields.error(name, f"{shown(key)} is no regular expression: {error}") from None
    return [(key, Fields(f"{fields.where}: {name}", raw)) for key in raw]


def _ending(key: str) -> str:
    """What peft makes of a key: it must match the whole name, or its end after a dot."""
    return rf"(.*\.)?({key})$"


def _of_pattern(patterns: Mapping[str, Any], module: str) -> Any:
    """The value of the first key that matches a module's name; None if none does."""
    for key, value in patterns.items():
        try:
            if regex.match(_ending(key), module, timeout=_SECONDS):
                return value
        except TimeoutError:
            raise CheckpointError(
                f"{ADAPTER_CONFIG}: the pattern {shown(key)} takes more than {_SECONDS:g} s"
            ) from None
    return None


def _notes(raw: dict[str, Any]) -> tuple[str, ...]:
    known = {*_READ, *_WITHOUT_EFFECT, *_REFUSED}
    unread = [name for name, value in raw.items() if name not in known and value]
    return (f"{ADAPTER_CONFIG}: not read: {shown_names(unread)}",) if unread else ()
