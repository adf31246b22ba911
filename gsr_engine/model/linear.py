"""Linear layers, and what makes them fast on a CPU: dtype and oneDNN's weight layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gsr_engine.checkpoint.model_config import ModelConfig

# Below this many weights a call of oneDNN's operator costs more than its layout saves.
LEAST_WEIGHTS = 1 << 18


def has_bf16_products() -> bool:
    """Whether oneDNN multiplies bf16 on this machine (x86: AVX-512 or AVX-NE-CONVERT).

    Otherwise torch falls back to loops that take the time of fp32 times the number of rows. In
    batched products they take up to 25 times as long as fp32.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


def compute_dtype(stored: torch.dtype) -> torch.dtype:
    """The dtype to run a checkpoint in: the stored one, but fp32 if oneDNN cannot multiply bf16."""
    return torch.float32 if stored == torch.bfloat16 and not has_bf16_products() else stored


def prepacks(config: ModelConfig, dtype: torch.dtype) -> bool:
    """Whether to prepack the linears of a decoder: all of them or none.

    They are prepacked if the installed torch has the operators, the dtype is multiplied, and the
    smallest linear is large enough.
    """
    rows = min(config.num_heads * config.head_dim, config.intermediate_size, config.vocab_size)
    known = all(
        hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )
    multiplied = dtype == torch.float32 or (dtype == torch.bfloat16 and has_bf16_products())
    return known and multiplied and rows * config.hidden_size >= LEAST_WEIGHTS


def prepacked(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
    """A linear with its weight in oneDNN's own layout; plain products reorder it every time.

    In fp32 the bits of a row then depend neither on the other rows nor on their number.
    """
    return Linear(torch.ops.mkldnn._reorder_linear_weight(weight), bias)


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x Wᵀ + b with weight [out, in], plain or prepacked, and bias [out] or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    @property
    def is_prepacked(self) -> bool:
        """Whether the weight is in oneDNN's own layout."""
        return self.weight.is_mkldnn

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to [..., in]."""
        if self.is_prepacked:
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self.weight, self.bias, "none", [], ""
            )
            return product
        return F.linear(x, self.weight, self.bias)
