"""The scaling of rotary frequencies that a GGUF file states, under transformers' names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gsr_engine.checkpoint.fields import Fields
from gsr_engine.checkpoint.gguf.header import GgufHeader
from gsr_engine.errors import UnsupportedModel, shown

FREQS = "rope_freqs.weight"
"""What each frequency is divided by, for all layers."""
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""Of Llama 3.1, 3.2 and 3.3. A file holds the divisors only, not the parameters."""
FACTORS = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
"""What longrope multiplies frequencies by, under transformers' names."""
_YARN = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
_NEUTRAL = {"attn_factor": 1, "yarn_attn_factor": 1, "yarn_ext_factor": 1, "yarn_log_multiplier": 0}
"""Fields that change a scaling, and the values that change nothing."""
_READ_BY = {"yarn": {"yarn_attn_factor", "yarn_log_multiplier"}, "longrope": {"attn_factor"}}
"""Those that are read for a type of scaling; for others, other values are refused."""
READ = frozenset(
    {
        *(f"scaling.{name}" for name in (*_YARN, *_NEUTRAL, "type", "finetuned")),
        *("scale_linear", "freq_base", "freq_base_swa", "dimension_count"),
    }
)
"""Fields behind `rope.` that are read here and by `config.py`; `finetuned` has no effect."""


def rope_tensors(header: GgufHeader) -> set[str]:
    """Names of the tensors that are read here; they are no weights."""
    factors = set(FACTORS.values())
    return {FREQS} | (factors if factors <= header.tensors.keys() else set())


def rope_scaling(header: GgufHeader, own: dict[str, Any]) -> dict[str, Any] | None:
    """`rope_scaling` of `config.json`; None if nothing is scaled.

    Args:
        header: the file.
        own: the fields of its architecture, without the architecture's name.

    Raises:
        UnsupportedModel: its frequencies are scaled in a way that is not reproduced.
    """
    stated = {
        name: own[f"rope.scaling.{name}"]
        for name in (*_YARN, *_NEUTRAL)
        if f"rope.scaling.{name}" in own
    }
    factor = stated.get("factor", own.get("rope.scale_linear", 0))
    # Without a type, llama.cpp takes a factor as linear; 0 stands for 1. Files of Phi-3 may name
    # no type either: their factors are tensors.
    longrope = set(FACTORS.values()) <= header.tensors.keys()
    named = Fields(header.path.name, own).text("rope.scaling.type", "linear")
    kind = "longrope" if longrope else named
    if kind == "linear" and factor in (0, 1):
        kind = "none"
    _check_neutral(header, stated, _READ_BY.get(kind, set()))
    if kind == "none":
        return _divided(header, own)
    if FREQS in header.tensors:
        raise UnsupportedModel(f"{header.path.name}: {FREQS} beside a scaling of rope")
    if kind == "linear":
        return {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        return _yarn(stated)
    if not longrope:
        raise UnsupportedModel(
            f"{header.path.name}: rope type {shown(kind)} is not supported in a GGUF without "
            f"{' and '.join(FACTORS.values())}; supported are linear and yarn"
        )
    if factor not in (0, 1):
        raise UnsupportedModel(
            f"{header.path.name}: rope.scaling.factor {shown(factor)} beside longrope"
        )
    return _longrope(header, stated)


def _check_neutral(header: GgufHeader, stated: dict[str, Any], read: set[str]) -> None:
    for name, neutral in _NEUTRAL.items():
        if name not in read and stated.get(name, neutral) != neutral:
            raise UnsupportedModel(
                f"{header.path.name}: rope.scaling.{name} {shown(stated[name])} is not "
                f"supported, only {neutral}"
            )


def _yarn(stated: dict[str, Any]) -> dict[str, Any]:
    yarn = {name: stated[field] for field, name in _YARN.items() if field in stated}
    if stated.get("yarn_attn_factor", 1) != 1:
        yarn["attention_factor"] = stated["yarn_attn_factor"]
    if stated.get("yarn_log_multiplier", 0) != 0:
        # llama.cpp takes the other of the two as 1.
        yarn |= {"mscale": 1.0, "mscale_all_dim": stated["yarn_log_multiplier"]}
    return {"rope_type": "yarn", **yarn}


def _longrope(header: GgufHeader, stated: dict[str, Any]) -> dict[str, Any]:
    factors = {name: _vector(header, tensor).tolist() for name, tensor in FACTORS.items()}
    names = {
        "attn_factor": "attention_factor",
        "original_context_length": "original_max_position_embeddings",
    }
    others = {name: stated[field] for field, name in names.items() if field in stated}
    return {"rope_type": "longrope", **factors, **others}


def _divided(header: GgufHeader, own: dict[str, Any]) -> dict[str, Any] | None:
    """The scaling whose divisors stand among the tensors: that of Llama 3 is known."""
    if FREQS not in header.tensors:
        return None
    found = _vector(header, FREQS)
    if np.all(found == 1):
        return None
    factor = round(float(found.max()), 4)  # 32.000004 is 32 in fp32
    theta = Fields(header.path.name, own).number("rope.freq_base", 1.0, 1e12, 10000.0)
    if not np.allclose(found, _llama3_divisors(theta, len(found), factor), rtol=1e-4):
        raise UnsupportedModel(
            f"{header.path.name}: {FREQS} holds other divisors than those of Llama 3.1, 3.2 or 3.3"
        )
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}


def _vector(header: GgufHeader, name: str) -> npt.NDArray[np.float64]:
    tensor = header.tensors[name]
    if tensor.kind != "F32":
        raise UnsupportedModel(f"{header.path.name}: {name} is of type {tensor.kind}, not F32")
    count = math.prod(tensor.shape)
    return np.fromfile(header.path, "<f4", count=count, offset=tensor.start).astype(np.float64)


def _llama3_divisors(theta: float, number: int, factor: float) -> npt.NDArray[np.float64]:
    """What Llama 3 divides its frequencies by: 1 for short waves, `factor` for long ones.

    Between the two the frequency, not the divisor, is interpolated.
    """
    original = _LLAMA3["original_max_position_embeddings"]
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    turns = original * theta ** -(np.arange(number) / number) / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / (kept + (1 - kept) / factor))
