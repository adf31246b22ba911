"""Copies between host and device that never make the host wait for the device."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch


def to_device(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """A host array as a tensor on the device; the copy is queued on the current CUDA stream.

    A copy from ordinary memory would wait for all work on the stream. So the values go through
    pinned memory, which torch keeps until the copy is done. On a CPU nothing is copied.
    """
    host = torch.from_numpy(values)
    if device.type == "cpu":
        return host
    return host.pin_memory().to(device, non_blocking=True)


def put(values: npt.NDArray[Any], target: torch.Tensor) -> None:
    """Overwrite a tensor in place with host values, without waiting for the device."""
    host = torch.from_numpy(values)
    target.copy_(host.pin_memory() if target.is_cuda else host, non_blocking=True)


class Fetched:
    """Tensors whose copy to the host has been queued; `wait` returns their values as lists.

    These are the values of now, even if the tensors are overwritten before `wait`.
    """

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self._event: torch.cuda.Event | None = None
        self._values: list[list[Any]] = []
        if tensors and tensors[0].is_cuda:
            self._tensors = [_pinned(tensor) for tensor in tensors]
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._values = [tensor.tolist() for tensor in tensors]

    def wait(self) -> list[list[Any]]:
        """The values of each tensor; waits until they are computed and copied."""
        if self._event is None:
            return self._values
        self._event.synchronize()
        return [tensor.tolist() for tensor in self._tensors]


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
