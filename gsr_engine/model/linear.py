"""What a CPU multiplies well: the dtype to compute in, and weights laid out once for oneDNN."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gsr_engine.checkpoint.model_config import ModelConfig

# With fewer weights than this a call of oneDNN's operator costs more than its layout saves.
_LEAST_WEIGHTS = 1 << 18


def has_bf16_products() -> bool:
    """Whether oneDNN multiplies bf16 here (AVX-512 or AVX-NE-CONVERT, on x86).

    Without it torch falls back on loops that take the time of fp32 times the number of rows, up
    to 25 times as long in batched products.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


def compute_dtype(stored: torch.dtype) -> torch.dtype:
    """The dtype to run a checkpoint in: fp32 for bf16 where bf16 is not multiplied."""
    return torch.float32 if stored == torch.bfloat16 and not has_bf16_products() else stored


def prepacks(config: ModelConfig, dtype: torch.dtype) -> bool:
    """Whether to prepack the linears of a decoder: all of them or none."""
    rows = min(config.num_heads * config.head_dim, config.intermediate_size, config.vocab_size)
    known = all(
        hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )
    multiplied = dtype == torch.float32 or (dtype == torch.bfloat16 and has_bf16_products())
    return known and multiplied and rows * config.hidden_size >= _LEAST_WEIGHTS


def prepacked(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
    """A linear with its weight in oneDNN's own layout; plain products reorder it every time.

    In fp32 a row's bits then do not depend on the other rows, whatever their number.
    """
    return Linear(torch.ops.mkldnn._reorder_linear_weight(weight), bias)


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x Wᵀ + b with weight [out, in], plain or prepacked (`gsr_engine.cpu`), and bias [out] or
    None.
    """

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
