"""What the machine can do: how fast it copies, and how long a model's products alone take.

No engine that computes in this dtype can be faster than the products of its steps. The difference
to a measured run is attention, sampling and the engine itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from gsr_engine.model.decoder import Decoder, Layer

REPEAT_SECONDS = 1.0
_SECONDS_OF_A_STEP = 0.3
"""`StepProducts` has many sizes to measure while a user waits."""
_MOST_ROWS = 256
"""Products of more rows are limited by arithmetic alone, so their time grows with the rows."""


class StepProducts:
    """How long the matrix products of a decoder's steps take; each size is measured once.

    Attributes:
        weight_bytes: what a step of one row reads of the weights.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._layers = [one for layer in decoder.layers for one in _products(layer)]
        self._head: list[_Product] = [(decoder.head, decoder.config.hidden_size)]
        self._decoder = decoder
        self._measured: dict[tuple[bool, int], float] = {}
        layers = sum(
            layer.qkv.weight_bytes + layer.output.weight_bytes + layer.mlp.bytes_per_row
            for layer in decoder.layers
        )
        self.weight_bytes = layers + decoder.head.weight_bytes

    def seconds(self, rows: int, draws: int) -> float:
        """Of a step of so many tokens, of which `draws` go through the output head."""
        return self._seconds(False, rows) + self._seconds(True, draws)

    def _seconds(self, head: bool, rows: int) -> float:
        measured = min(rows, _MOST_ROWS)
        if (head, measured) not in self._measured:
            self._measured[head, measured] = self._measure(head, measured)
        return self._measured[head, measured] * rows / measured

    @torch.inference_mode()
    def _measure(self, head: bool, rows: int) -> float:
        products = self._head if head else self._layers
        dtype, device = self._decoder.dtype, self._decoder.device
        widths = {width for _, width in products}
        inputs = {width: torch.randn(rows, width).to(device, dtype) for width in widths}

        def run() -> None:
            for multiply, width in products:
                multiply(inputs[width])
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return best_seconds(run, _SECONDS_OF_A_STEP)


def copy_bandwidth(mib: int = 256, device: str | torch.device = "cpu") -> float:
    """Bytes read and written per second by a plain copy, in units of 1e9."""
    source = torch.ones(mib << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def run() -> None:
        target.copy_(source)
        if source.is_cuda:
            torch.cuda.synchronize(source.device)

    return 2 * source.numel() / best_seconds(run) / 1e9


_Product = tuple[Callable[[torch.Tensor], torch.Tensor], int]
"""Something that multiplies, and the width of its input."""


def _products(layer: Layer) -> list[_Product]:
    hidden, attended = layer.qkv.weight.shape[1], layer.output.weight.shape[1]
    return [(layer.qkv, hidden), (layer.output, attended), (layer.mlp, hidden)]


def best_seconds(run: Callable[[], object], seconds: float | None = None) -> float:
    """The fastest of at least 3 runs within so many seconds; None: `REPEAT_SECONDS`."""
    stop = time.perf_counter() + (REPEAT_SECONDS if seconds is None else seconds)
    best, count = float("inf"), 0
    while count < 3 or time.perf_counter() < stop:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        count += 1
    return best
