"""The rotary parameters of `config.json`."""

from __future__ import annotations

from typing import Any

from gsr_engine.checkpoint.families import Family
from gsr_engine.checkpoint.fields import Fields
from gsr_engine.errors import UnsupportedModel, shown

Rope = dict[str, Any]
"""Rotary parameters under the names of transformers 5; those that are null are left out."""

SUPPORTED_ROPE = ("default", "linear", "llama3", "yarn", "longrope")
_LARGEST = 1e6
"""Of any factor; the largest in use are below 100."""
_SMALLEST = 1e-6


_PARAMETERS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {
        *("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    },
    "yarn": {
        *("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
        *("attention_factor", "mscale", "mscale_all_dim", "truncate"),
    },
    "longrope": {
        *("factor", "original_max_position_embeddings", "attention_factor"),
        *("short_factor", "long_factor"),
    },
}
_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_MINISTRAL = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
"""What Ministral 3 has where `config.json` states no rotary parameters."""


def read_ropes(config: Fields, family: Family) -> tuple[Rope, Rope, list[str]]:
    """The rotary parameters of full and of sliding layers, and the names of those not read.

    Transformers 5 keeps them all in rope_parameters, 4 in rope_theta and rope_scaling. Where both
    stand, rope_scaling replaces rope_parameters, as in transformers 5; in a family whose layers
    differ it is added to those of the full layers.

    Raises:
        CheckpointError: a parameter is missing or out of range.
        UnsupportedModel: the engine lacks the type of scaling.
    """
    scaling, parameters = config.mapping("rope_scaling"), config.mapping("rope_parameters")
    if family.layer_ropes:
        full = {**_of_layers(config, parameters, "full_attention"), **scaling}
        sliding = _of_layers(config, parameters, "sliding_attention")
        if sliding.get("rope_theta") is None and "rope_local_base_freq" in family.reads:
            sliding["rope_theta"] = config.raw.get("rope_local_base_freq")
        full, unread = _read(config, family, full, "rope_parameters.full_attention")
        if sliding.get("rope_theta") is None:
            # What `config.json` states at its top is that of the full layers, in transformers, too.
            sliding["rope_theta"] = family.sliding_theta
        sliding, more = _read(config, family, sliding, "rope_parameters.sliding_attention")
        flat = [
            f"rope_parameters.{name}"
            for name, value in parameters.items()
            if name not in ("full_attention", "sliding_attention") and value is not None
        ]
        return full, sliding, [*unread, *more, *flat]
    where = "rope_scaling" if scaling else "rope_parameters"
    stated = scaling or parameters or (_MINISTRAL if family.scaled_queries else {})
    if any(isinstance(value, dict) for value in stated.values()):
        raise UnsupportedModel("rope parameters that differ by layer are not supported")
    rope, unread = _read(config, family, stated, where)
    if scaling and parameters:
        unread.append("rope_parameters (rope_scaling stands beside it)")
    return rope, rope, unread


def query_scaling(rope: Rope) -> tuple[float, int]:
    """How queries grow with their position p: (beta, length).

    The factor is 1 + beta · ln(1 + ⌊p / length⌋), as in Llama 4 and Ministral 3.

    Raises:
        CheckpointError: beta is missing or out of range.
    """
    fields = Fields("config.json: rope parameters", rope)
    length = fields.integer("original_max_position_embeddings", 1, 2**31 - 1)
    return fields.number("llama_4_scaling_beta", 0.0, 1e3), length


def rotated_dims(rope: Rope, head_dim: int) -> int:
    """How many dimensions of a head are rotated; the rest stays as it is."""
    return int(head_dim * rope.get("partial_rotary_factor", 1.0))


def check_rotated(rope: Rope, head_dim: int) -> None:
    """Raise CheckpointError if the rotary parameters do not fit the head dim."""
    dims = rotated_dims(rope, head_dim)
    fields = Fields("config.json: rope parameters", rope)
    if dims % 2 or not dims:
        raise fields.error("partial_rotary_factor", f"rotates {dims} of {head_dim} dimensions")
    for name in ("short_factor", "long_factor"):
        if name in rope and len(rope[name]) != dims // 2:
            raise fields.error(name, f"has {len(rope[name])} numbers, {dims // 2} are rotated")


def _of_layers(config: Fields, parameters: Rope, kind: str) -> Rope:
    return dict(Fields(f"{config.where}: rope_parameters", parameters).mapping(kind))


def _read(config: Fields, family: Family, stated: Rope, where: str) -> tuple[Rope, list[str]]:
    """The parameters of one kind of layer, checked, and the names of those not read."""
    rope = {name: value for name, value in stated.items() if value is not None}
    rope.setdefault("rope_theta", config.number("rope_theta", 1.0, 1e12, family.rope_theta))
    rope.setdefault("rope_type", rope.pop("type", "default"))
    if family.partial_rotary:
        if rope["rope_type"] in ("su", "yarn"):  # what Phi-3 once called it
            rope["rope_type"] = "longrope"
        outside = config.number("partial_rotary_factor", 0.0, 1.0, 1.0)
        fields = Fields(f"{config.where}: rope parameters", rope)
        rope["partial_rotary_factor"] = fields.number("partial_rotary_factor", 0.0, 1.0, outside)
    partial = rope.get("partial_rotary_factor", 1.0)
    if partial != 1.0 and not family.partial_rotary:
        raise UnsupportedModel(f"partial_rotary_factor {shown(partial)} is not supported, only 1")
    kind = rope["rope_type"]
    if not isinstance(kind, str) or kind not in SUPPORTED_ROPE:
        raise UnsupportedModel(
            f"rope type {shown(kind)} is not supported; supported are {', '.join(SUPPORTED_ROPE)}"
        )
    fields = Fields(f"{config.where}: rope parameters", rope)
    rope["rope_theta"] = fields.number("rope_theta", 1.0, 1e12)
    if kind != "default":
        _check_scaling(fields, config, family)
    known = _PARAMETERS[kind] | _COMMON
    if family.scaled_queries:
        # Transformers, too, takes the longest context from beside the rotary parameters.
        known |= {"llama_4_scaling_beta", "max_position_embeddings"}
    return rope, [f"{where}.{name}" for name in rope if name not in known]


def _check_scaling(fields: Fields, config: Fields, family: Family) -> None:
    rope = fields.raw
    kind = rope["rope_type"]
    if kind != "longrope" or fields.has("factor"):
        rope["factor"] = fields.number("factor", _SMALLEST if kind == "longrope" else 1.0, _LARGEST)
    if kind == "linear":
        return
    name = "original_max_position_embeddings"
    longest = config.integer("max_position_embeddings", 1, 2**31 - 1)
    rope[name] = fields.integer(name, 1, 2**31 - 1, longest)
    if not family.layer_ropes:
        # Beside the rope parameters, the length of pretraining counts more than among them.
        rope[name] = config.integer(name, 1, 2**31 - 1, rope[name])
    for name in ("beta_fast", "beta_slow", "attention_factor"):
        if name in rope:
            rope[name] = fields.number(name, _SMALLEST, _LARGEST)
    {"llama3": _check_llama3, "yarn": _check_yarn, "longrope": _check_longrope}[kind](
        fields, longest
    )


def _check_llama3(fields: Fields, longest: int) -> None:
    rope = fields.raw
    for name in ("low_freq_factor", "high_freq_factor"):
        rope[name] = fields.number(name, _SMALLEST, _LARGEST)
    if rope["low_freq_factor"] >= rope["high_freq_factor"]:
        raise fields.error(
            "low_freq_factor", f"{rope['low_freq_factor']:g} must be below high_freq_factor"
        )


def _check_yarn(fields: Fields, longest: int) -> None:
    rope = fields.raw
    if rope["rope_theta"] == 1.0:
        raise fields.error("rope_theta", "must be above 1 for yarn, got 1")
    for name in ("mscale", "mscale_all_dim"):
        if name in rope:
            rope[name] = fields.number(name, 0.0, _LARGEST)
    rope["truncate"] = fields.flag("truncate", True)


def _check_longrope(fields: Fields, longest: int) -> None:
    rope = fields.raw
    if rope["original_max_position_embeddings"] < 2:
        raise fields.error("original_max_position_embeddings", "must be above 1 for longrope")
    rope.setdefault("factor", longest / rope["original_max_position_embeddings"])
    for name in ("short_factor", "long_factor"):
        factors = rope.get(name)
        if not isinstance(factors, list) or not factors:
            raise fields.error(name, f"must be a list of numbers, got {shown(factors)}")
        for index, factor in enumerate(factors):
            one = Fields(f"{fields.where}: {name}", {str(index): factor})
            factors[index] = one.number(str(index), _SMALLEST, _LARGEST)
