"""What the machine can do: how fast it copies, and how long a model's products alone take.

No engine that computes in this precision can be faster than the products of its steps. The
difference to a measured run is attention, sampling and the engine itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gsr_engine.environment import describe_machine
from gsr_engine.errors import UnsupportedModel
from gsr_engine.model.decoder import Decoder, Mlp
from gsr_engine.model.linear import Linear
from gsr_engine.speed.machine_limits import best_seconds, copy_bandwidth

_PREFILL_ROWS = 256
# The instructions that decide how fast products are, as Linux names them on x86.
_FLAGS = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_vnni": "vnni",
    "avx512_bf16": "bf16",
    "amx_bf16": "amx",
}


def chip(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name and the instructions that products use; the name alone says little."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    words = [word for flag, word in _FLAGS.items() if flag in flags]
    return " ".join([describe_machine()["cpu"], *words])


@dataclass(frozen=True, slots=True)
class Products:
    """All matrix products of one step.

    Attributes:
        rows: tokens of the step.
        seconds: with the weights as the engine holds them.
        plain_seconds: with `F.linear` and plain weights.
        gflops: arithmetic per second within `seconds`, in units of 1e9.
        weight_gb: bytes of weights read per second within `seconds`, in units of 1e9.
    """

    rows: int
    seconds: float
    plain_seconds: float
    gflops: float
    weight_gb: float


@dataclass(frozen=True, slots=True)
class Limits:
    """The machine's limits for one model.

    Attributes:
        copy_gb: bytes read and written per second by a plain copy, in units of 1e9.
        products: of steps of several sizes.
        prefill: of many rows without the output head, which a prompt needs for its last row only.
    """

    copy_gb: float
    products: list[Products]
    prefill: Products

    def or_better(self, other: Limits) -> Limits:
        """The best of two measurements of the same; a busy machine makes nothing faster."""
        pairs = zip(self.products, other.products, strict=True)
        return Limits(
            max(self.copy_gb, other.copy_gb),
            [min(pair, key=lambda one: one.seconds) for pair in pairs],
            min(self.prefill, other.prefill, key=lambda one: one.seconds),
        )


def layer_linears(decoder: Decoder) -> list[Linear]:
    """The linears of all layers; the output head is not among them.

    Raises:
        UnsupportedModel: a layer has experts, and which of them a row goes through is not known.
    """
    linears: list[Linear] = []
    for layer in decoder.layers:
        if not isinstance(layer.mlp, Mlp):
            raise UnsupportedModel("the limits of a model with experts are not measured")
        linears += [layer.qkv, layer.output, layer.mlp.gate_up, layer.mlp.down]
    return linears


def measure_limits(decoder: Decoder, sizes: Sequence[int]) -> Limits:
    """The limits now, with steps of these sizes."""
    products = measure_products([*layer_linears(decoder), decoder.head], sizes)
    (prefill,) = measure_products(layer_linears(decoder), [_PREFILL_ROWS])
    return Limits(copy_bandwidth(), products, prefill)


@torch.inference_mode()
def measure_products(own: Sequence[Linear], sizes: Sequence[int]) -> list[Products]:
    """The products of steps of several sizes; the best repetition of about a second counts."""
    plain = [Linear(one.dense(), one.bias, one.gate) for one in own]
    weights = sum(one.weight.numel() for one in plain)
    dtype = plain[0].weight.dtype
    bytes_read = sum(one.weight_bytes for one in own)
    found = []
    for rows in sizes:
        inputs = [torch.randn(rows, one.weight.shape[1]).to(dtype) for one in plain]
        seconds, plain_seconds = (
            best_seconds(
                lambda s=side, x=inputs: [f(row) for f, row in zip(s, x, strict=True)]  # type: ignore[misc]
            )
            for side in (own, plain)
        )
        rates = (2e-9 * rows * weights / seconds, 1e-9 * bytes_read / seconds)
        found.append(Products(rows, seconds, plain_seconds, *rates))
    return found
