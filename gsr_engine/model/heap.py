"""The C library's heap, which keeps memory that was freed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

_BETWEEN = 64 << 20
"""Bytes taken between two calls: each costs as much time as its pages take to come back."""


class Heap:
    """Gives memory that was freed while weights are loaded back to the system.

    glibc keeps freed blocks below 32 MiB. Those of tensors that were converted and packed lie
    between the blocks that stay: a model of 0.6B parameters would take half as much again as its
    weights, for as long as the process lives. Other C libraries are left alone, and so are models
    that are too small to matter.
    """

    def __init__(self) -> None:
        self._since, self._wanted = 0, False

    def took(self, num_bytes: int) -> None:
        """Count what a tensor took on its way; now and then, trim."""
        self._since += num_bytes
        if self._since >= _BETWEEN:
            self._since, self._wanted = 0, True
            self.trim()

    def trim(self) -> None:
        """Give back what is free, if a model was large enough."""
        if self._wanted:
            _malloc_trim()(0)


@cache
def _malloc_trim() -> Callable[[int], object]:
    try:
        found: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS; Windows takes no None
        return lambda _: None
    return found
