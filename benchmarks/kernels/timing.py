"""How long a kernel takes, and how fast the chip can copy and multiply.

On a GPU a run is captured in a CUDA graph, as in the engine, and replayed with an empty L2 cache.
So the figure does not contain the host's launches. Elsewhere the references are timed by wall
clock, so that the benchmark itself can be tested without a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from statistics import median
from typing import Any

import torch

_FLUSH_BYTES = 256 << 20
"""Several times the L2 cache of any chip."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What no kernel can exceed.

    Attributes:
        copy_gbs: bytes read and written per second by a large copy, in units of 1e9.
        matmul_tflops: arithmetic per second of a large bf16 product of random numbers.
        launch_us: time of the smallest kernel by the same clock; it is not subtracted from others.
    """

    copy_gbs: float
    matmul_tflops: float
    launch_us: float

    def as_row(self) -> dict[str, Any]:
        """A row beside those of the kernels."""
        return {"kernel": "limits", "case": "copy, matmul, launch", **asdict(self)}


@cache
def measure_limits(device: str) -> Limits:
    """The limits of a device, measured once per process."""
    on_gpu = torch.device(device).type == "cuda"
    size = (2 << 30) if on_gpu else (16 << 20)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copying = seconds(lambda: target.copy_(source), device)
    size = 8192 if on_gpu else 256
    a, b = torch.randn(2, size, size, device=device).bfloat16()
    multiplying = seconds(lambda: a @ b, device)
    one = torch.zeros(1, device=device)
    return Limits(
        copy_gbs=2e-9 * source.numel() / copying,
        matmul_tflops=2e-12 * size**3 / multiplying,
        launch_us=1e6 * seconds(lambda: one.add_(1), device),
    )


def seconds(run: Callable[[], object], device: str, repeats: int = 20) -> float:
    """The median of several runs, each with cold caches."""
    if torch.device(device).type == "cuda":
        return _on_cuda(run, repeats)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times)


def captured(run: Callable[[], object]) -> Callable[[], None]:
    """A CUDA graph's replay of a run."""
    for _ in range(2):
        run()  # compiles, and creates the handles that a capture must not create
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    return graph.replay


def _on_cuda(run: Callable[[], object], repeats: int) -> float:
    replay = captured(run)
    others = torch.empty(_FLUSH_BYTES // 4, device="cuda").normal_()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in pairs:
        # The buffer is read, not written: the write-back of dirty lines would be timed with the
        # kernel. The replay is queued while this runs.
        others.sum()
        start.record()
        replay()
        end.record()
    torch.cuda.synchronize()
    milliseconds: float = median(start.elapsed_time(end) for start, end in pairs)
    return 1e-3 * milliseconds
