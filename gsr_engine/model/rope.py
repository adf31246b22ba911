"""The table of the rotary position embedding, for every rope scaling that the engine supports."""

from __future__ import annotations

import math

import torch

from gsr_engine.checkpoint.rope_config import Rope, rotated_dims
from gsr_engine.errors import OutOfMemory


def rope_table(rope: Rope | None, head_dim: int, length: int) -> torch.Tensor:
    """Cosines and sines of the rotary angles, fp32 [length, head_dim].

    The first half of a row holds the cosines of position · inverse frequency, the second half the
    sines. The attention factor of yarn and longrope is multiplied in. Dimensions that are not
    rotated have an angle of 0 (see `rotary_order`). Formulas: RoFormer (arXiv 2104.09864), Llama
    3.1's frequency bands, YaRN (arXiv 2309.00071), LongRoPE (arXiv 2402.13753), with the parameter
    names of transformers.

    Args:
        rope: the parameters; None rotates nothing.
        head_dim: dimensions of a head.
        length: the longest context. Longrope has two sets of factors, and takes one for all
            positions: the long one if the context may exceed that of the pretraining.

    Raises:
        OutOfMemory: there is no memory for so many positions.
    """
    if rope is None:
        rope = {"rope_type": "default", "rope_theta": 1.0, "partial_rotary_factor": 0.0}
    dims = rotated_dims(rope, head_dim)
    frequencies = _inverse_frequencies(rope, dims, length)
    scale, still = _attention_factor(rope), (head_dim - dims) // 2
    try:
        angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
        ones, zeros = torch.ones(length, still), torch.zeros(length, still)
        return torch.cat([angles.cos() * scale, ones, angles.sin() * scale, zeros], dim=1)
    except RuntimeError:
        raise OutOfMemory(
            f"the rotary table of {length} positions does not fit into memory: lower max_model_len"
        ) from None


def rotary_order(rope: Rope, head_dim: int) -> torch.Tensor | None:
    """The order in which queries and keys hold the dimensions of a head; None: as stored.

    Kernels rotate dimension i with i + head_dim / 2. Where a checkpoint rotates its first R
    dimensions alone, i with i + R / 2, their rows of the weights are put in this order. Scores do
    not change: queries and keys have the same order.
    """
    dims = rotated_dims(rope, head_dim)
    if dims == head_dim:
        return None
    rotated, still = torch.arange(dims), torch.arange(dims, head_dim)
    return torch.cat(
        [part for halves in zip(rotated.chunk(2), still.chunk(2), strict=True) for part in halves]
    )


def factors_in_use(rope: Rope, length: int) -> str | None:
    """Which factors longrope takes for contexts up to this length, in words; None if it has none.

    Transformers chooses them anew for each forward, by its length.
    """
    if rope["rope_type"] != "longrope":
        return None
    original = rope["original_max_position_embeddings"]
    if not uses_long_factors(rope, length):
        return f"longrope: the short factors are used, for contexts up to {original} tokens"
    return (
        f"longrope: the long factors are used, because contexts may have {length} tokens; "
        f"max_model_len={original} takes the short factors, as transformers does for short contexts"
    )


def uses_long_factors(rope: Rope, length: int) -> bool:
    """Whether longrope takes its long factors for contexts of this length."""
    return bool(length > rope["original_max_position_embeddings"])


def _inverse_frequencies(rope: Rope, dims: int, length: int) -> torch.Tensor:
    theta: float = rope["rope_theta"]
    exponents = torch.arange(0, dims, 2, dtype=torch.int64).float() / dims
    kind = rope["rope_type"]
    if kind == "longrope":
        name = "long_factor" if uses_long_factors(rope, length) else "short_factor"
        return 1.0 / (torch.tensor(rope[name], dtype=torch.float32) * theta**exponents)
    frequencies: torch.Tensor = 1.0 / (theta**exponents)
    if kind == "linear":
        return frequencies / float(rope["factor"])
    if kind == "llama3":
        return _llama3_frequencies(frequencies, rope)
    if kind == "yarn":
        return _yarn_frequencies(frequencies, rope, dims)
    return frequencies


def _llama3_frequencies(frequencies: torch.Tensor, rope: Rope) -> torch.Tensor:
    """Stretch long wavelengths by `factor`, keep short ones, interpolate those between."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    factor: float = rope["factor"]
    banded: torch.Tensor = (1 - smooth) * frequencies / factor + smooth * frequencies
    return banded


def _yarn_frequencies(frequencies: torch.Tensor, rope: Rope, head_dim: int) -> torch.Tensor:
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


def _attention_factor(rope: Rope) -> float:
    if rope["rope_type"] not in ("yarn", "longrope"):
        return 1.0
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope["rope_type"] == "longrope":
        factor, original = rope["factor"], rope["original_max_position_embeddings"]
        return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(rope["factor"]) + 1.0 if rope["factor"] > 1 else 1.0

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return mscale(rope["mscale"]) / mscale(rope["mscale_all_dim"])
    return mscale(1.0)
