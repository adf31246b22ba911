"""Linear layers, and the layouts of weights that make them fast on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from csrc_triton import (
    Gate,
    QuantizedWeight,
    dequantize_weight,
    gated_activation,
    has_cpu_kernels,
    pack_weight,
    packed_linear,
    quantize_weight,
    quantized_linear,
)
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.config import Quantization

LEAST_WEIGHTS = 1 << 18
"""Below this many weights a call of oneDNN's operator costs more than its layout saves."""
INT8_GROUP = 64
"""Inputs that share a scale in 8 bits: see decision 11 for what other sizes lose."""


def has_bf16_products() -> bool:
    """Whether oneDNN multiplies bf16 on this machine (x86: AVX-512 or AVX-NE-CONVERT)."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


def compute_dtype(stored: torch.dtype) -> torch.dtype:
    """The dtype to run a checkpoint in: the stored one, but fp32 if oneDNN cannot multiply bf16."""
    return torch.float32 if stored == torch.bfloat16 and not has_bf16_products() else stored


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x Wᵀ + b with weight [out, in] and bias [out] or None.

    Attributes:
        weight: [out, in]; subclasses hold it in another layout.
        bias: [out] or None.
        gate: f, if the first half of the outputs gates the other: y is f(first) * other.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    gate: Gate | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to [..., in]."""
        return self._apply(x)

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        product = F.linear(x, self.weight, self.bias)
        return gated_activation(product, self.gate) if self.gate else product

    @property
    def weight_bytes(self) -> int:
        """What a product reads of the weight."""
        return self.weight.numel() * self.weight.dtype.itemsize

    def dense(self) -> torch.Tensor:
        """The weight as [out, in]."""
        return self.weight


@dataclass(frozen=True, slots=True)
class OnednnLinear(Linear):
    """A linear whose weight is in oneDNN's own layout; plain products reorder it every time."""

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, "none", [], ""
        )
        return gated_activation(product, self.gate) if self.gate else product

    def dense(self) -> torch.Tensor:
        """The weight as [out, in]."""
        dense: torch.Tensor = self.weight.to_dense()
        return dense


@dataclass(frozen=True, slots=True)
class PackedLinear(Linear):
    """A linear for the kernels of a CPU: a row's bits do not depend on the other rows.

    Attributes:
        weight: what `csrc_triton.pack_weight` made, [blocks, in, 16].
        num_outputs: the last dim of y.
    """

    num_outputs: int = 0

    @classmethod
    def of(
        cls, weight: torch.Tensor, bias: torch.Tensor | None = None, gate: Gate | None = None
    ) -> PackedLinear:
        """Pack a plain weight."""
        outputs = weight.shape[0] // 2 if gate else weight.shape[0]
        return cls(pack_weight(weight, gated=gate is not None), bias, gate, outputs)

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return packed_linear(x, self.weight, self.bias, self.num_outputs, gate=self.gate)

    def dense(self) -> torch.Tensor:
        """The weight as [out, in]."""
        parts = 2 if self.gate else 1
        rows: torch.Tensor = self.weight.transpose(1, 2).unflatten(0, (-1, parts)).transpose(0, 1)
        return rows.flatten(1, 2)[:, : self.num_outputs].flatten(0, 1)


@dataclass(frozen=True, slots=True)
class Int8Linear(Linear):
    """A linear in 8 bits for the kernels of a CPU; see `csrc_triton.quantized_linear`.

    Attributes:
        weight: the numbers of `quantized`.
        quantized: what `csrc_triton.quantize_weight` made.
    """

    quantized: QuantizedWeight = field(kw_only=True)

    @classmethod
    def of(
        cls,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        gate: Gate | None = None,
        group: int | None = INT8_GROUP,
    ) -> Int8Linear:
        """Quantise a plain weight; `group` as in `csrc_triton.quantize_weight`."""
        quantized = quantize_weight(weight, group=group, gated=gate is not None)
        return cls(quantized.data, bias, gate, quantized=quantized)

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        return quantized_linear(x, self.quantized, self.bias, gate=self.gate)

    def dense(self) -> torch.Tensor:
        """The weight as [out, in], fp32."""
        return dequantize_weight(self.quantized)


MakeLinear = Callable[..., Linear]
"""Makes a linear of a plain weight, a bias or None, and a gate or None."""


def linear_maker(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization = "none",
) -> MakeLinear:
    """How to lay out the weights of a decoder on its device; the device has this arithmetic.

    On a CPU the kernels take them. Large bf16 weights go to oneDNN where the chip multiplies bf16:
    it adds two products at once. Without kernels they stay plain.
    """
    if quantization == "int8":
        return Int8Linear.of
    if device.type != "cpu":
        return Linear
    if dtype == torch.bfloat16 and _onednn_pays(config):
        return _onednn
    return PackedLinear.of if has_cpu_kernels(dtype) else Linear


def linear_bytes(
    shape: tuple[int, ...], dtype: torch.dtype, quantization: Quantization = "none"
) -> int:
    """Memory, in bytes, of a linear's weight [out, in], but for the padding of packed blocks."""
    outputs, inputs = shape
    if quantization == "int8":
        return outputs * (inputs + -(-inputs // INT8_GROUP) * torch.float32.itemsize)
    return outputs * inputs * dtype.itemsize


def _onednn_pays(config: ModelConfig) -> bool:
    """Whether oneDNN's operators are there, and the smallest linear is large enough for them."""
    rows = min(config.num_heads * config.head_dim, config.intermediate_size, config.vocab_size)
    known = all(
        hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )
    return known and has_bf16_products() and rows * config.hidden_size >= LEAST_WEIGHTS


def _onednn(
    weight: torch.Tensor, bias: torch.Tensor | None = None, gate: Gate | None = None
) -> Linear:
    return OnednnLinear(torch.ops.mkldnn._reorder_linear_weight(weight), bias, gate)
