"""What the machine can do: how fast it copies, and how long a model's products alone take.

No engine that computes in this dtype can be faster than the products of its steps. The difference
to a measured run is attention, sampling and the engine itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gsr_engine.model.decoder import Decoder
from gsr_engine.model.linear import Linear

_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Products:
    """All matrix products of one step, output head included.

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


def copy_bandwidth(mib: int = 256) -> float:
    """Bytes read and written per second by a plain copy, in units of 1e9."""
    source = torch.ones(mib << 20, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best(lambda: target.copy_(source)) / 1e9


@torch.inference_mode()
def measure_products(decoder: Decoder, sizes: Sequence[int]) -> list[Products]:
    """The products of steps of several sizes; the best repetition of about a second counts."""
    own = [
        linear
        for layer in decoder.layers
        for linear in (layer.qkv, layer.output, layer.gate_up, layer.down)
    ]
    own.append(decoder.head)
    plain = [Linear(one.weight.to_dense(), one.bias) if one.is_prepacked else one for one in own]
    weights = sum(one.weight.numel() for one in plain)
    bytes_read = weights * decoder.dtype.itemsize
    found = []
    for rows in sizes:
        inputs = [torch.randn(rows, one.weight.shape[1]).to(decoder.dtype) for one in plain]
        seconds, plain_seconds = (
            _best(lambda s=side, x=inputs: [f(row) for f, row in zip(s, x, strict=True)])  # type: ignore[misc]
            for side in (own, plain)
        )
        rates = (2e-9 * rows * weights / seconds, 1e-9 * bytes_read / seconds)
        found.append(Products(rows, seconds, plain_seconds, *rates))
    return found


def _best(run: Callable[[], object]) -> float:
    best, stop, count = float("inf"), time.perf_counter() + _SECONDS, 0
    while count < 3 or time.perf_counter() < stop:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        count += 1
    return best
