"""The rotary parameters of `config.json`."""

from __future__ import annotations

from typing import Any

from gsr_engine.checkpoint.fields import Fields
from gsr_engine.errors import UnsupportedModel, shown

SUPPORTED_ROPE = ("default", "llama3", "yarn")
_LARGEST = 1e6
"""Of any factor; the largest in use are below 100."""
_SMALLEST = 1e-6


_PARAMETERS = {
    "default": set(),
    "llama3": {
        *("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    },
    "yarn": {
        *("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
        *("attention_factor", "mscale", "mscale_all_dim", "truncate"),
    },
}
_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


def read_rope(config: Fields) -> tuple[dict[str, Any], list[str]]:
    """The rotary parameters under the names of transformers 5, and the names of those not read.

    Transformers 5 keeps them all in rope_parameters, 4 in rope_theta and rope_scaling. Where both
    stand, rope_scaling replaces rope_parameters, as in transformers 5. Those that are null are
    left out.

    Raises:
        CheckpointError: a parameter is missing or out of range.
        UnsupportedModel: the engine lacks the type of scaling.
    """
    scaling, parameters = config.mapping("rope_scaling"), config.mapping("rope_parameters")
    where = "rope_scaling" if scaling else "rope_parameters"
    rope = {name: value for name, value in (scaling or parameters).items() if value is not None}
    if any(isinstance(value, dict) for value in rope.values()):
        raise UnsupportedModel("rope parameters that differ by layer are not supported")
    rope.setdefault("rope_theta", config.number("rope_theta", 1.0, 1e12, 10000.0))
    rope.setdefault("rope_type", rope.pop("type", "default"))
    partial = rope.get("partial_rotary_factor", 1.0)
    if partial != 1.0:
        raise UnsupportedModel(f"partial_rotary_factor {shown(partial)} is not supported, only 1")
    kind = rope["rope_type"]
    if not isinstance(kind, str) or kind not in SUPPORTED_ROPE:
        raise UnsupportedModel(
            f"rope type {shown(kind)} is not supported; supported are {', '.join(SUPPORTED_ROPE)}"
        )
    fields = Fields(f"{config.where}: rope parameters", rope)
    rope["rope_theta"] = fields.number("rope_theta", 1.0, 1e12)
    if kind != "default":
        _check_scaling(fields, config)
    unread = [f"{where}.{name}" for name in rope if name not in _PARAMETERS[kind] | _COMMON]
    if scaling and parameters:
        unread.append("rope_parameters (rope_scaling stands beside it)")
    return rope, unread


def _check_scaling(fields: Fields, config: Fields) -> None:
    rope = fields.raw
    rope["factor"] = fields.number("factor", 1.0, _LARGEST)
    # Beside the rope parameters, the length of pretraining counts more than among them.
    name = "original_max_position_embeddings"
    longest = config.integer("max_position_embeddings", 1, 2**31 - 1)
    original = fields.integer(name, 1, 2**31 - 1, longest)
    rope[name] = config.integer(name, 1, 2**31 - 1, original)
    if rope["rope_type"] == "llama3":
        for name in ("low_freq_factor", "high_freq_factor"):
            rope[name] = fields.number(name, _SMALLEST, _LARGEST)
        if rope["low_freq_factor"] >= rope["high_freq_factor"]:
            raise fields.error(
                "low_freq_factor", f"{rope['low_freq_factor']:g} must be below high_freq_factor"
            )
        return
    if rope["rope_theta"] == 1.0:
        raise fields.error("rope_theta", "must be above 1 for yarn, got 1")
    for name in ("beta_fast", "beta_slow", "attention_factor"):
        if name in rope:
            rope[name] = fields.number(name, _SMALLEST, _LARGEST)
    for name in ("mscale", "mscale_all_dim"):
        if name in rope:
            rope[name] = fields.number(name, 0.0, _LARGEST)
    rope["truncate"] = fields.flag("truncate", True)
