"""What is measured: a system answers problems by selfRef@k."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from benchmarks.latency.cell import Streams
from benchmarks.latency.timed_answer import Moments, TimedAnswer


class Answerer(Protocol):
    """A system that is ready for one cell."""

    async def answer(self, problem: str, seed: int, moments: Moments) -> TimedAnswer:
        """The answer to a problem, and when its tokens came.

        Raises:
            NotAnswered: the system refused the problem or failed.
        """
        ...

    async def peak_pages(self) -> int | None:
        """The most KV pages of 16 tokens that this cell used at once; None if nobody tells."""
        ...


class System(Protocol):
    """An engine, a server or a library, with a way to use it.

    Attributes:
        name: in tables.
    """

    name: str

    def open(self, streams: Streams) -> AbstractAsyncContextManager[Answerer]:
        """Make it ready for a cell.

        Raises:
            PeerSkipped: it cannot run here; the message says why.
        """
        ...
