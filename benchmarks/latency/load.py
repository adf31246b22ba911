"""Problems that come to a system: as its clients are free, or at random."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from benchmarks.latency.cell import Cell
from benchmarks.latency.system import Answerer
from benchmarks.latency.timed_answer import Moments, TimedAnswer

T = TypeVar("T")
Ask = Callable[[int, float], Awaitable[TimedAnswer]]
"""The index of a problem and its arrival to its answer."""


def arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Seconds at which problems arrive, of a Poisson process; the first arrives at 0."""
    rng, now, moments = random.Random(seed), 0.0, list[float]()
    for _ in range(count):
        moments.append(now)
        now += rng.expovariate(rate)
    return moments


async def drive(
    answerer: Answerer,
    problems: Sequence[str],
    cell: Cell,
    seed: int,
    on_answer: Callable[[], object] = lambda: None,
) -> tuple[list[TimedAnswer], float]:
    """Let the problems come as the cell says; problem i is asked with the seed `seed + i`.

    Arrivals are the same for every system and k, as far as the seed says.

    Returns:
        The answers in the order of the problems, and the seconds until the last one.

    Raises:
        NotAnswered: a problem was not answered; the others are cancelled.
    """
    began = time.perf_counter()

    async def ask(index: int, arrived: float) -> TimedAnswer:
        answer = await answerer.answer(problems[index], seed + index, Moments(cell.k, arrived))
        on_answer()
        return answer

    if cell.rate:
        answers = await _open_loop(ask, arrivals(cell.rate, len(problems), seed), began)
    else:
        answers = await _closed_loop(ask, len(problems), cell.at_once)
    return answers, time.perf_counter() - began


async def _open_loop(ask: Ask, moments: Sequence[float], began: float) -> list[TimedAnswer]:
    async def come(index: int, moment: float) -> TimedAnswer:
        await asyncio.sleep(began + moment - time.perf_counter())
        return await ask(index, began + moment)

    return await _all(come(index, moment) for index, moment in enumerate(moments))


async def _closed_loop(ask: Ask, count: int, clients: int) -> list[TimedAnswer]:
    answers: dict[int, TimedAnswer] = {}
    indices = iter(range(count))  # shared: each problem is asked once

    async def client() -> None:
        for index in indices:
            answers[index] = await ask(index, time.perf_counter())

    await _all(client() for _ in range(clients))
    return [answers[index] for index in range(count)]


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results; the first error ends the others before it goes on."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
