"""Which layers of a checkpoint slide, rotate, and have experts, read from `config.json`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gsr_engine.checkpoint.fields import Fields
from gsr_engine.errors import UnsupportedModel, shown

Sliding = Callable[[Fields, int], list[bool]]
"""Whether each layer attends to a sliding window, from the fields and the number of layers."""


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What distinguishes a layer from the others of its model.

    Attributes:
        window: a token sees tokens that are less than this many positions before it; None: all.
        rope: the rotary parameters under transformers' names (rope_type, rope_theta, factor, ...);
            None: queries and keys are not rotated.
        experts: whether it has experts instead of one feed-forward network.
    """

    window: int | None
    rope: dict[str, Any] | None = field(hash=False)
    experts: bool = False


def no_layer(fields: Fields, layers: int) -> list[bool]:
    """No layer slides."""
    return [False] * layers


def every_layer(fields: Fields, layers: int) -> list[bool]:
    """All layers slide if there is a window (Mistral)."""
    return [window_in_use(fields)] * layers


def last_layers(fields: Fields, layers: int) -> list[bool]:
    """As `layer_types` says, or from `max_window_layers` on (Qwen2)."""
    if fields.has("layer_types"):
        return _listed(fields, layers)
    first = fields.integer("max_window_layers", 0, 2**31 - 1)
    return [window_in_use(fields) and layer >= first for layer in range(layers)]


def three_of_four_layers(fields: Fields, layers: int) -> list[bool]:
    """As `layer_types` says, or all but each fourth (OLMo 3)."""
    return _listed(fields, layers) if fields.has("layer_types") else _all_but_each(4, layers)


def five_of_six_layers(fields: Fields, layers: int) -> list[bool]:
    """As `layer_types` says, or all but each sixth (Gemma 3)."""
    if fields.has("layer_types"):
        return _listed(fields, layers)
    return _all_but_each(fields.integer("sliding_window_pattern", 1, 2**31 - 1), layers)


def unrotated_layers(fields: Fields, layers: int) -> list[bool]:
    """As `layer_types` says, or those without rotation, if a window is in use (SmolLM3)."""
    if fields.has("layer_types"):
        return _listed(fields, layers)
    return [window_in_use(fields) and not one for one in rotated_layers(fields, layers)]


def rotated_layers(fields: Fields, layers: int) -> list[bool]:
    """Which layers rotate queries and keys: all, unless `no_rope_layers` marks some by 0."""
    if fields.has("no_rope_layers"):
        marks = fields.raw["no_rope_layers"]
        if not isinstance(marks, list) or len(marks) < layers or set(map(str, marks)) - {"0", "1"}:
            raise fields.error(
                "no_rope_layers", f"must be 0 or 1 for {layers} layers, got {shown(marks)}"
            )
        return [bool(mark) for mark in marks[:layers]]
    if not fields.has("no_rope_layer_interval"):
        return [True] * layers
    return _all_but_each(fields.integer("no_rope_layer_interval", 1, 2**31 - 1), layers)


def expert_layers(fields: Fields, layers: int) -> list[bool]:
    """Which layers have experts: each `decoder_sparse_step`-th, but none of `mlp_only_layers`."""
    if not fields.has("num_experts"):
        return [False] * layers
    step = fields.integer("decoder_sparse_step", 1, 2**31 - 1, 1)
    dense = fields.raw.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(layer) is int for layer in dense):
        raise fields.error("mlp_only_layers", f"must be a list of layers, got {shown(dense)}")
    return [(layer + 1) % step == 0 and layer not in dense for layer in range(layers)]


def layer_windows(fields: Fields, sliding: Sliding, layers: int) -> list[int | None]:
    """The window of each layer, None where all tokens are seen.

    Raises:
        CheckpointError: the window is no positive integer.
        UnsupportedModel: a layer slides, and there is no window.
    """
    slides = sliding(fields, layers)
    if not any(slides):
        return [None] * layers
    if not window_in_use(fields):
        raise UnsupportedModel(
            f"{fields.where}: layer_types has 'sliding_attention', but no sliding_window is in use"
        )
    window = fields.integer("sliding_window", 1, 2**31 - 1)
    return [window if one else None for one in slides]


def window_in_use(fields: Fields) -> bool:
    """Whether a window is stated, and not switched off."""
    return fields.has("sliding_window") and fields.flag("use_sliding_window", True)


def _all_but_each(nth: int, layers: int) -> list[bool]:
    return [(layer + 1) % nth != 0 for layer in range(layers)]


def _listed(fields: Fields, layers: int) -> list[bool]:
    kinds = fields.raw["layer_types"]
    known = isinstance(kinds, list) and all(
        isinstance(kind, str) and kind in ("full_attention", "sliding_attention") for kind in kinds
    )
    if not known or len(kinds) != layers:
        raise UnsupportedModel(
            f"{fields.where}: layer_types must say full_attention or sliding_attention of {layers} "
            f"layers, got {shown(kinds)}"
        )
    return [kind == "sliding_attention" for kind in kinds]
