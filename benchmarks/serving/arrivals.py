"""Answers to problems that arrive at random, as clients see them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from benchmarks.serving.methods import Method
from benchmarks.serving.servers import Server

_LOOK_SECONDS = 0.5
_TIMEOUT = 3600.0


@dataclass(frozen=True, slots=True)
class Cell:
    """What one method made of one rate.

    Attributes:
        method: its name, and the server's.
        rate: problems per second that arrived; 0 for all at once.
        seconds: from the arrival of each problem to its answer.
        elapsed: from the first arrival to the last answer.
        peak_pages: the most KV pages of 16 tokens that requests held at once.
    """

    method: str
    rate: float
    seconds: list[float]
    elapsed: float
    peak_pages: int

    def percentile(self, percent: float) -> float:
        """Seconds to the answer."""
        return float(np.percentile(self.seconds, percent))

    @property
    def answers_per_second(self) -> float:
        """Over the whole time."""
        return len(self.seconds) / self.elapsed


def arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Seconds at which problems arrive, of a Poisson process; all at 0 for a rate of 0."""
    rng, now, moments = random.Random(seed), 0.0, list[float]()
    for _ in range(count):
        moments.append(now)
        now += rng.expovariate(rate) if rate else 0.0
    return moments


def offer(
    start: Callable[[], Server], name: str, method: Method, problems: Sequence[str], rate: float
) -> Cell:
    """Let problems arrive at a fresh server.

    The last problem only warms it up. The same moments and problems come to every method.

    Raises:
        PeerSkipped: the server does not start.
        NotAnswered: it did not answer.
    """
    with start() as server:
        return asyncio.run(_offer(server, name, method, problems, rate))


async def _offer(
    server: Server, name: str, method: Method, problems: Sequence[str], rate: float
) -> Cell:
    *problems, first = problems
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=_TIMEOUT, limits=limits) as client:
        await method.answer(client, first, seed=len(problems))
        began = time.perf_counter()

        async def ask(number: int, moment: float) -> float:
            await asyncio.sleep(began + moment - time.perf_counter())
            await method.answer(client, problems[number], seed=number)
            return time.perf_counter() - began - moment

        pages: list[float] = []
        looking = asyncio.create_task(_look(server, client, pages))
        try:
            every = enumerate(arrivals(rate, len(problems), seed=0))
            seconds = await asyncio.gather(*(ask(*one) for one in every))
            elapsed = time.perf_counter() - began
            pages.append(await server.pages_used(client))
        finally:
            looking.cancel()
    return Cell(name, rate, seconds, elapsed, round(max(pages)))


async def _look(server: Server, client: httpx.AsyncClient, pages: list[float]) -> None:
    """Look again and again at how many pages are used, for a server that keeps no peak."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        pages.append(await server.pages_used(client))
