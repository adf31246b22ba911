"""What a CUDA graph is to its users: a call is captured once, and replayed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

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
    replay. A call leaves its results in tensors that were there before. Behind a call that CUDA
    refuses the others share a pool of their own.
    """

    def __init__(self) -> None:
        """Capture on the current device."""
        self._device = torch.cuda.current_device()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Callable[[], object]) -> Replay:
        """The replay of a call; it may raise whatever the call or CUDA raises."""
        call()  # libraries load their kernels at the first call, and a capture may not
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        capturing = torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=_capture_stream(self._device),
            # Other threads of the host program may use CUDA during the capture.
            capture_error_mode="thread_local",
        )
        try:
            with _without_collection(), capturing:
                call()
        except BaseException:  # an interrupt, too
            torch.cuda.set_stream(stream)  # torch leaves that of a capture only after a success
            self._abandon(graph)
            raise
        replay: Replay = graph.replay
        return replay

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a failed capture for torch, too: its pool would refuse every later one."""
        try:
            torch._C._cuda_endAllocateToPool(self._device, self._pool)
        except RuntimeError:  # it has ended: the call failed, and CUDA refused nothing
            return
        torch._C._cuda_releasePool(self._device, self._pool)
        self._pool = torch.cuda.graph_pool_handle()
        _ABANDONED.append(graph)


_ABANDONED: list[torch.cuda.CUDAGraph] = []
"""Graphs whose capture torch has not ended; its allocator of pinned memory points at them."""


@cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    """The stream of all captures on a device; that of torch is on the device of the first one."""
    return torch.cuda.Stream(device)


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
