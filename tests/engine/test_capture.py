"""A capture of a call, with a stand-in for what torch keeps of it: streams and pools."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gsr_engine.execution.capture import CudaCapture


class Torch:
    """Torch's side of captures: one that CUDA refuses is not ended, and so its pool stays taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream: Any = "the caller's"
        self.recording: set[Any] = set()
        self.pools: dict[Any, int] = {}  # graphs that hold each
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", self._new_pool)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay="a replay"))
        monkeypatch.setattr(torch.cuda, "graph", self._capturing)
        streams = "gsr_engine.execution.capture._capture_stream"
        monkeypatch.setattr(streams, lambda device: f"of the captures on {device}")
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.stream)
        monkeypatch.setattr(torch.cuda, "set_stream", lambda one: setattr(self, "stream", one))
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self._end, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self._release, raising=False)

    def _new_pool(self) -> Any:
        pool = 0, len(self.pools)
        self.pools[pool] = 0
        return pool

    @contextmanager
    def _capturing(self, graph: Any, pool: Any, stream: Any, capture_error_mode: str) -> Any:
        assert capture_error_mode == "thread_local"
        assert stream == "of the captures on 1"
        before, self.stream = self.stream, stream
        if pool in self.recording:
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        self.recording.add(pool)
        self.pools[pool] += 1
        try:
            yield
        except torch.AcceleratorError:
            raise torch.AcceleratorError("failed due to a previous error") from None
        except BaseException:
            self._end(1, pool)
            self._release(1, pool)
            self.stream = before
            raise
        self._end(1, pool)
        self.stream = before

    def _end(self, device: int, pool: Any) -> None:
        assert device == 1
        if pool not in self.recording:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recording.remove(pool)

    def _release(self, device: int, pool: Any) -> None:
        assert device == 1
        self.pools[pool] -= 1


def failing(error: Exception, torchs: Torch) -> Callable[[], object]:
    """A call that fails only while it is captured."""

    def call() -> None:
        if torchs.stream != "the caller's":
            assert not gc.isenabled()
            raise error

    return call


@pytest.mark.parametrize(
    ("error", "pools"),
    [(torch.AcceleratorError("not permitted"), 2), (torch.OutOfMemoryError("no memory"), 1)],
)
def test_a_failed_capture_leaves_everything_to_the_next(
    error: Exception, pools: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream, the pool of memory, and the collection of garbage."""
    torchs = Torch(monkeypatch)
    capture = CudaCapture()
    capture(lambda: None)
    for _ in range(2):
        with pytest.raises(type(error)):
            capture(failing(error, torchs))
        assert torchs.stream == "the caller's"
        assert gc.isenabled()
        assert not torchs.recording
        assert capture(lambda: None) == "a replay"
    # Each graph that was captured holds its pool, and no other does.
    assert sum(torchs.pools.values()) == 3
    assert len(torchs.pools) == 1 + 2 * (pools - 1)
