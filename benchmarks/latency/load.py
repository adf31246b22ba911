"""Problems that come to a system: as its clients are free, or at random."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks.latency.cell import Cell
from benchmarks.latency.system import Answerer
from benchmarks.latency.timed_answer import Moments, TimedAnswer


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


async def _open_loop(ask: Callable[..., object], moments: list[float], began: float) -> list:
    async def come(index: int, moment: float) -> TimedAnswer:
        await asyncio.sleep(began + moment - time.perf_counter())
        return await ask(index, began + moment)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(come(*one)) for one in enumerate(moments)]
    return [task.result() for task in tasks]


async def _closed_loop(ask: Callable[..., object], count: int, clients: int) -> list:
    answers: dict[int, TimedAnswer] = {}

    async def client(indices: Iterator[int]) -> None:
        for index in indices:
            answers[index] = await ask(index, time.perf_counter())

    async with asyncio.TaskGroup() as group:
        indices = iter(range(count))  # shared: each problem is asked once
        for _ in range(clients):
            group.create_task(client(indices))
    return [answers[index] for index in range(count)]
