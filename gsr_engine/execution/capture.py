"""What a CUDA graph is to its users: a call is captured once, and replayed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

Replay = Callable[[], object]
"""Does again what was captured, with the present values of the same tensors."""
Capture = Callable[[Callable[[], object]], Replay]
"""Captures a call, which may be made in advance, too."""


def rungs(sizes: Sequence[int], most: int) -> list[int]:
    """Those of some ascending sizes that lie below the most that is needed, and that itself.

    If that is more than the last size, they end there.
    """
    last = min(most, sizes[-1])
    return [*(size for size in sizes if size < last), last]


def capture_for(device: torch.device) -> Capture:
    """Captures calls on a device; where there are no graphs, the call itself is the replay."""
    return CudaCapture() if device.type == "cuda" else lambda call: call


class CudaCapture:
    """Captures calls as CUDA graphs that share one memory pool.

    So only one of them may run at a time, and what a call allocates means nothing after the next
    replay. A call leaves its results in tensors that were there before.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Callable[[], object]) -> Replay:
        """The replay of a call; it may raise whatever the call or CUDA raises."""
        call()  # libraries load their kernels at the first call, and a capture may not
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # thread_local: other threads of the host program may use CUDA during the capture.
            with (
                _without_collection(),
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                call()
        except Exception:
            torch.cuda.set_stream(stream)  # torch leaves its own stream only after a success
            raise
        replay: Replay = graph.replay
        return replay


@contextmanager
def _without_collection() -> Iterator[None]:
    """No garbage is collected: an object that frees memory of the device would break a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
