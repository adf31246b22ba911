"""Chooses what a model computes in: its dtype, and the arithmetic of its products."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from csrc_triton import has_cpu_kernels
from gsr_engine.checkpoint.tensors import ModelTensors
from gsr_engine.config import EngineConfig, Quantization
from gsr_engine.errors import InvalidRequest
from gsr_engine.execution.device import choose_device
from gsr_engine.model.linear import compute_dtype


def choose_arithmetic(
    config: EngineConfig, stored: ModelTensors, device: torch.device
) -> tuple[torch.dtype, Quantization]:
    """The dtype of activations and KV, and what layers and head multiply in.

    Raises:
        InvalidRequest: the device does not multiply so.
    """
    asked = config.quantization
    quantization = _usual(config, stored, device) if asked == "auto" else asked
    dtype = _dtype(config.dtype, stored.config.dtype, device, quantization)
    if reason := _why_not(quantization, dtype, device):
        raise InvalidRequest("quantization", f"{quantization!r} {reason}")
    return dtype, quantization


def describe_arithmetic() -> dict[str, str]:
    """What this machine multiplies in 8 bits, by the names of `EngineConfig.quantization`."""
    device = choose_device("auto")
    names: tuple[Quantization, ...] = ("int8", "fp8")
    reasons = {name: _why_not(name, torch.float32, device) for name in names}
    return {name: reason or f"yes, on {device.type}" for name, reason in reasons.items()}


def arithmetic_notes(
    config: EngineConfig, stored: ModelTensors, dtype: torch.dtype, quantization: Quantization
) -> Iterator[str]:
    """What a user should know of the choice, in words."""
    if config.quantization == "auto" and quantization == "int8":
        yield "a quantised file runs in int8; quantization='none' dequantises it"
    if config.dtype == "auto" and stored.config.dtype == "float16" and dtype == torch.bfloat16:
        yield "a float16 checkpoint runs in bfloat16; dtype='float32' keeps its digits"


def _usual(config: EngineConfig, stored: ModelTensors, device: torch.device) -> Quantization:
    """What "auto" stands for."""
    eight = device.type == "cpu" and stored.quantized
    dtype = _dtype(config.dtype, None, device, "int8")
    return "int8" if eight and _why_not("int8", dtype, device) is None else "none"


def _why_not(quantization: Quantization, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why a device does not multiply so; None if it does."""
    if quantization == "int8" and device.type != "cpu":
        return "is for CPUs: take 'none' on a GPU, or device='cpu'"
    if quantization == "int8" and not has_cpu_kernels(dtype):
        return "needs the kernels for CPUs, which cannot be compiled here: see the warning"
    if quantization == "fp8":
        return "is not multiplied on this device"
    return None


def _dtype(
    asked: str, stored: str | None, device: torch.device, quantization: Quantization
) -> torch.dtype:
    """The dtype to run in; "auto" takes the stored one where the device multiplies it.

    Products in int8 are fp32 before they are rounded, so "auto" keeps them.
    """
    if asked != "auto":
        dtype: torch.dtype = getattr(torch, asked)
        return dtype
    if stored == "float32" or quantization == "int8":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" else compute_dtype(torch.bfloat16)
