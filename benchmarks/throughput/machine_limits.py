"""What the machine can do: how fast it copies, and how long a model's products alone take.

No engine that computes in this dtype can be faster than the products of its steps. The difference
to a measured run is attention, sampling and the engine itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gsr_engine.environment import describe_machine
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.linear import Linear

REPEAT_SECONDS = 1.0
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


def measure_limits(decoder: Decoder, sizes: Sequence[int]) -> Limits:
    """The limits now, with steps of these sizes."""
    products = measure_products([*_layers(decoder), decoder.head], sizes)
    (prefill,) = measure_products(_layers(decoder), [_PREFILL_ROWS])
    return Limits(copy_bandwidth(), products, prefill)


def copy_bandwidth(mib: int = 256) -> float:
    """Bytes read and written per second by a plain copy, in units of 1e9."""
    source = torch.ones(mib << 20, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best(lambda: target.copy_(source)) / 1e9


def _layers(decoder: Decoder) -> list[Linear]:
    return [
        linear
        for layer in decoder.layers
        for linear in (layer.qkv, layer.output, layer.gate_up, layer.down)
    ]


@torch.inference_mode()
def measure_products(own: Sequence[Linear], sizes: Sequence[int]) -> list[Products]:
    """The products of steps of several sizes; the best repetition of about a second counts."""
    plain = [Linear(one.weight.to_dense(), one.bias) if one.is_prepacked else one for one in own]
    weights = sum(one.weight.numel() for one in plain)
    dtype = plain[0].weight.dtype
    bytes_read = weights * dtype.itemsize
    found = []
    for rows in sizes:
        inputs = [torch.randn(rows, one.weight.shape[1]).to(dtype) for one in plain]
        seconds, plain_seconds = (
            _best(lambda s=side, x=inputs: [f(row) for f, row in zip(s, x, strict=True)])  # type: ignore[misc]
            for side in (own, plain)
        )
        rates = (2e-9 * rows * weights / seconds, 1e-9 * bytes_read / seconds)
        found.append(Products(rows, seconds, plain_seconds, *rates))
    return found


def _best(run: Callable[[], object]) -> float:
    best, stop, count = float("inf"), time.perf_counter() + REPEAT_SECONDS, 0
    while count < 3 or time.perf_counter() < stop:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        count += 1
    return best
