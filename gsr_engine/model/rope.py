"""The table of the rotary position embedding, for every rope scaling that the engine supports."""

from __future__ import annotations

import math
from typing import Any

import torch

from gsr_engine.errors import OutOfMemory


def rope_table(rope: dict[str, Any], head_dim: int, length: int) -> torch.Tensor:
    """Cosines and sines of the rotary angles, fp32 [length, head_dim].

    The first half of a row holds the cosines of position · inverse frequency, the second half the
    sines. Yarn's attention factor is multiplied in. Formulas: RoFormer (arXiv 2104.09864), Llama
    3.1's frequency bands, YaRN (arXiv 2309.00071), with the parameter names of transformers.

    Raises:
        OutOfMemory: there is no memory for so many positions.
    """
    frequencies = _inverse_frequencies(rope, head_dim)
    scale = _attention_factor(rope)
    try:
        angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
        return torch.cat([angles.cos() * scale, angles.sin() * scale], dim=1)
    except RuntimeError:
        raise OutOfMemory(
            f"the rotary table of {length} positions does not fit into memory: lower max_model_len"
        ) from None


def _inverse_frequencies(rope: dict[str, Any], head_dim: int) -> torch.Tensor:
    theta: float = rope["rope_theta"]
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies: torch.Tensor = 1.0 / (theta**exponents)
    if rope["rope_type"] == "llama3":
        return _llama3_frequencies(frequencies, rope)
    if rope["rope_type"] == "yarn":
        return _yarn_frequencies(frequencies, rope, head_dim)
    return frequencies


def _llama3_frequencies(frequencies: torch.Tensor, rope: dict[str, Any]) -> torch.Tensor:
    """Stretch long wavelengths by `factor`, keep short ones, interpolate those between."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    factor: float = rope["factor"]
    banded: torch.Tensor = (1 - smooth) * frequencies / factor + smooth * frequencies
    return banded


def _yarn_frequencies(
    frequencies: torch.Tensor, rope: dict[str, Any], head_dim: int
) -> torch.Tensor:
    """Interpolate from kept to stretched frequencies along a ramp over the dimensions.

    The ramp begins at the dimension that makes beta_fast turns in the original context, and ends
    at the one that makes beta_slow turns.
    """
    original, base = rope["original_max_position_embeddings"], rope["rope_theta"]

    def dimension(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = dimension(rope.get("beta_fast") or 32)
    high = dimension(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    span = max(high - low, 0.001)
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / span).clamp(0, 1)
    factor: float = rope["factor"]
    return frequencies / factor * ramp + frequencies * (1 - ramp)


def _attention_factor(rope: dict[str, Any]) -> float:
    if rope["rope_type"] != "yarn":
        return 1.0
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(rope["factor"]) + 1.0 if rope["factor"] > 1 else 1.0

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return mscale(rope["mscale"]) / mscale(rope["mscale_all_dim"])
    return mscale(1.0)
