"""Products in fp8 (e4m3): weights with a scale per output, activations with one per token."""

from __future__ import annotations

import torch
import torch.nn.functional as F

E4M3 = torch.float8_e4m3fn
LEAST_CAPABILITY = (8, 9)
"""NVIDIA's Ada; Hopper is (9, 0)."""
MULTIPLE = 16
"""The chips multiply matrices whose numbers of inputs and of outputs are multiples of this."""
_LARGEST = torch.finfo(E4M3).max
_LEAST_SCALE = torch.finfo(torch.float32).tiny
"""So that a row of zeros is not divided by zero."""


def fp8_support(device: torch.device) -> str | None:
    """Why a device does not run models in fp8, after "fp8"; None if it does."""
    if device.type != "cuda":
        return "runs on NVIDIA GPUs alone"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        least, own = (".".join(map(str, one)) for one in (LEAST_CAPABILITY, capability))
        return f"needs a GPU of compute capability {least} or more, this one has {own}"
    return None


def fits_fp8(weight: torch.Tensor) -> bool:
    """Whether chips multiply a weight of this shape in fp8."""
    return all(size % MULTIPLE == 0 for size in weight.shape)


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in e4m3, and the fp32 scales [N, 1] that multiply them; x is [N, K], of any float type.

    The largest of a row becomes 448, the largest of e4m3. A row with a NaN or an infinity becomes
    NaN, and no other row does.
    """
    largest = torch.linalg.vector_norm(x, torch.inf, 1, keepdim=True)  # one pass over x
    scales = (largest.float() / _LARGEST).clamp_min(_LEAST_SCALE)
    return (x / scales).to(E4M3), scales


def scaled_linear(
    x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """X Wᵀ + b in bf16 for x [N, in]; each row of x is quantised, and nothing waits for the host.

    Products are summed without the chip's fast accumulation. Scales multiply the sums.

    Args:
        x: of any float type.
        weight: e4m3 [out, in], both multiples of `MULTIPLE`.
        scales: fp32 [1, out]: what multiplies each row of the weight.
        bias: bf16 [out] or None.
    """
    rows, own = quantize_rows(x)
    product: torch.Tensor = F.scaled_mm(
        rows,
        weight.T,
        own,
        F.ScalingType.RowWise,
        scales,
        F.ScalingType.RowWise,
        bias=bias,
        output_dtype=torch.bfloat16,
    )
    return product
