"""The threads in which requests are made: texts become token ids outside of the engine's thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

SHORT = 16_384
"""An input of at most this many characters or token ids is short: it is made in milliseconds."""


class Makers:
    """One thread for short inputs and one for long ones, each in the order of its calls.

    So short requests keep their order, and none of them waits for a long one. The threads start
    when they are first needed.
    """

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(1, thread_name_prefix="gsr-make-short")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="gsr-make-long")

    def submit(self, size: int, make: Callable[[], T]) -> Future[T]:
        """Call `make` in the thread for inputs of that size."""
        return (self._short if size <= SHORT else self._long).submit(make)

    def close(self) -> None:
        """Wait for the calls that were submitted, and end the threads."""
        self._short.shutdown()
        self._long.shutdown()
