"""Linear layers in fp8 (e4m3): weights with a scale per output, activations with one per token."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from csrc_triton import Gate, gated_activation
from gsr_engine.model.linear import Linear

E4M3 = torch.float8_e4m3fn
LEAST_CAPABILITY = (8, 9)
"""NVIDIA's Ada; Hopper is (9, 0)."""
MULTIPLE = 16
"""The chips multiply matrices whose numbers of inputs and of outputs are multiples of this."""
_LARGEST = torch.finfo(E4M3).max
_LEAST_SCALE = torch.finfo(torch.float32).tiny
"""So that a row of zeros is not divided by zero."""


def fp8_support(device: torch.device) -> str | None:
    """Why a device does not run models in fp8; None if it does."""
    if device.type != "cuda":
        return "fp8 runs on NVIDIA GPUs alone"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        least, own = (".".join(map(str, one)) for one in (LEAST_CAPABILITY, capability))
        return f"fp8 needs a GPU of compute capability {least} or more, this one has {own}"
    return None


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in e4m3, and the fp32 scales [N, 1] that multiply them; x is [N, K], of any float type.

    The largest of a row becomes 448, the largest of e4m3. A row with a NaN or an infinity becomes
    NaN, and no other row does.
    """
    exact = x.float()
    scales = (exact.abs().amax(1, keepdim=True) / _LARGEST).clamp_min(_LEAST_SCALE)
    return (exact / scales).to(E4M3), scales


@dataclass(frozen=True, slots=True)
class Fp8Linear(Linear):
    """A linear in fp8, which returns bf16; nothing in it waits for the host.

    Sums are kept as the chip keeps them without fast accumulation, and scales multiply the sums.

    Attributes:
        weight: e4m3 [out, in], both multiples of `MULTIPLE`.
        bias: bf16 [out] or None.
        scales: fp32 [1, out].
    """

    scales: torch.Tensor = field(kw_only=True)

    @classmethod
    def of(
        cls, weight: torch.Tensor, bias: torch.Tensor | None = None, gate: Gate | None = None
    ) -> Fp8Linear:
        """Quantise a plain weight."""
        rows, scales = quantize_rows(weight)
        return cls(rows, None if bias is None else bias.bfloat16(), gate, scales=scales.T)

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        rows, scales = quantize_rows(x.flatten(0, -2))
        row_wise = F.ScalingType.RowWise
        product = F.scaled_mm(
            rows,
            self.weight.T,
            scales,
            row_wise,
            self.scales,
            row_wise,
            bias=self.bias,
            output_dtype=torch.bfloat16,
        ).unflatten(0, x.shape[:-1])
        return gated_activation(product, self.gate) if self.gate else product

    def dense(self) -> torch.Tensor:
        """The weight as [out, in], fp32."""
        return self.weight.float() * self.scales.T


def fp8_linear(
    weight: torch.Tensor, bias: torch.Tensor | None = None, gate: Gate | None = None
) -> Linear:
    """An `Fp8Linear`, or a plain linear if the shape is none that chips multiply in fp8."""
    if any(size % MULTIPLE for size in weight.shape):
        return Linear(weight, bias, gate)
    return Fp8Linear.of(weight, bias, gate)
