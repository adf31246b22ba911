"""Chooses what a model computes in: its dtype, and the arithmetic of its products."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from csrc_triton import has_cpu_kernels
from gsr_engine.checkpoint.tensors import ModelTensors
from gsr_engine.config import EngineConfig, Quantization
from gsr_engine.errors import InvalidRequest
from gsr_engine.execution.gpu import choose_device
from gsr_engine.model.decoder import Decoder, Mlp
from gsr_engine.model.fp8 import MULTIPLE, fp8_support
from gsr_engine.model.linear import Fp8Linear, compute_dtype


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
    reasons = {name: _why_not(name, _dtype("auto", None, device, name), device) for name in names}
    return {name: reason or f"yes, on {device.type}" for name, reason in reasons.items()}


def arithmetic_notes(
    config: EngineConfig, stored: ModelTensors, dtype: torch.dtype, quantization: Quantization
) -> Iterator[str]:
    """What a user should know of the choice, in words."""
    name = str(dtype).removeprefix("torch.")
    if quantization == "fp8" and stored.config.experts is not None:
        yield f"experts multiply in {name}: only attention is in fp8"
    if config.quantization == "auto" and quantization == "int8":
        yield "a quantised file runs in int8; quantization='none' dequantises it"
    if config.quantization == "auto" and quantization == "fp8":
        yield "a checkpoint in fp8 runs in fp8, a scale for each row; 'none' dequantises it"
    if stored.config.fp8 is not None and quantization != "fp8":
        runs_in = name if quantization == "none" else quantization
        yield f"weights in fp8 are dequantised: layers run in {runs_in}"
    if config.dtype == "auto" and stored.config.dtype == "float16" and dtype == torch.bfloat16:
        yield "a float16 checkpoint runs in bfloat16; dtype='float32' keeps its digits"


def _usual(config: EngineConfig, stored: ModelTensors, device: torch.device) -> Quantization:
    """What "auto" stands for; beside fp8 the experts of a model, most of it, stay in bfloat16."""
    usual: Quantization = "none"
    if stored.quantized:
        usual = "int8"
    elif stored.config.fp8 is not None and stored.config.experts is None:
        usual = "fp8"
    dtype = _dtype(config.dtype, None, device, usual)
    return usual if _why_not(usual, dtype, device) is None else "none"


def _why_not(quantization: Quantization, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why a device does not multiply so; None if it does."""
    if quantization == "int8" and device.type != "cpu":
        return "is for CPUs: take 'none' on a GPU, or device='cpu'"
    if quantization == "int8" and not has_cpu_kernels(dtype):
        return "needs the kernels for CPUs, which cannot be compiled here: see the warning"
    if quantization == "fp8" and (reason := fp8_support(device)):
        return reason
    if quantization == "fp8" and dtype != torch.bfloat16:
        return "returns bfloat16: take dtype='bfloat16'"
    return None


def _dtype(
    asked: str, stored: str | None, device: torch.device, quantization: Quantization
) -> torch.dtype:
    """The dtype to run in; "auto" takes the stored one where the device multiplies it.

    Products in int8 are fp32 before they are rounded, so "auto" keeps them. Those in fp8 are bf16.
    """
    if asked != "auto":
        dtype: torch.dtype = getattr(torch, asked)
        return dtype
    if quantization == "fp8":
        return torch.bfloat16
    if stored == "float32" or quantization == "int8":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" else compute_dtype(torch.bfloat16)


def plain_products(decoder: Decoder) -> str | None:
    """A note of linears that are not in fp8 although the layers are; None if all are."""
    if decoder.quantization != "fp8":
        return None
    linears = [one for layer in decoder.layers for one in (layer.qkv, layer.output)]
    for layer in decoder.layers:
        if isinstance(layer.mlp, Mlp):
            linears += [layer.mlp.gate_up, layer.mlp.down]
    plain = sum(not isinstance(one, Fp8Linear) for one in linears)
    if not plain:
        return None
    return (
        f"{plain} of {len(linears)} products stay in bfloat16: fp8 needs inputs and outputs in "
        f"multiples of {MULTIPLE}"
    )
