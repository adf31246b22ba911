"""What clients cost who wait for room at the asyncio front: host time of its thread per step."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.stub_runner import stub_engine
from gsr_engine import AsyncEngine, Engine, SamplingParams, final_result

_TOKENS = 48
"""Least tokens of a request; lengths differ, so that not all requests end with one step."""
_WARM_UP = 50


@dataclass(frozen=True, slots=True)
class FrontCost:
    """One number of waiting clients.

    Attributes:
        waiting: clients that wait for room, the same number all the time.
        turn_us: processor microseconds of the engine's thread from step to step, the median.
        slowest_us: the same of the slowest turn in a hundred.
        step_us: the part of `turn_us` that the engine's step takes; the rest is the front's.
    """

    waiting: int
    turn_us: float
    slowest_us: float
    step_us: float


class _ThreadClock:
    """Notes the processor time of an engine's thread around every step.

    Processor time leaves out what the thread waits for others: the clients, and the machine.
    """

    def __init__(self, engine: Engine) -> None:
        self.begins: list[float] = []
        self.ends: list[float] = []
        self._step = engine.step
        engine.step = self._timed_step  # type: ignore[method-assign]

    def _timed_step(self) -> list[Any]:
        self.begins.append(time.thread_time())
        finished = self._step()
        self.ends.append(time.thread_time())
        return finished

    def cost(self, waiting: int, first: int, turns: int) -> FrontCost:
        """The figures of some turns from the `first` on."""
        begins, ends = self.begins[first : first + turns + 1], self.ends[first : first + turns]
        turn_us = [1e6 * (then - now) for now, then in itertools.pairwise(begins)]
        step_us = [1e6 * (end - begin) for begin, end in zip(begins, ends, strict=False)]
        return FrontCost(
            waiting,
            statistics.median(turn_us),
            sorted(turn_us)[-1 - len(turn_us) // 100],
            statistics.median(step_us),
        )


async def _client(front: AsyncEngine, number: int) -> None:
    """Ask again and again, so that as many clients wait all the time."""
    params = SamplingParams(max_tokens=_TOKENS + number % 31, ignore_eos=True, seed=number)
    while True:
        await final_result(front.generate([7, 8, 9], params))


async def _num_waiting(front: AsyncEngine) -> int:
    return await asyncio.wrap_future(front.loop.call(lambda: len(front.loop.waiting)))


async def _serve(waiting: int, turns: int, room: int) -> FrontCost:
    engine = stub_engine(max_num_seqs=room, num_pages=4096)
    clock = _ThreadClock(engine)
    async with AsyncEngine(engine, max_pending=room) as front:
        clients = [asyncio.create_task(_client(front, one)) for one in range(waiting + room)]
        # Requests are made in threads of their own: wait until so many are there.
        while await _num_waiting(front) < waiting - room // 2:
            await asyncio.sleep(0.01)
        await front.stats()
        first = len(clock.begins) + _WARM_UP
        while len(clock.begins) <= first + turns:
            await asyncio.sleep(0.01)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    return clock.cost(waiting, first, turns)


def measure_front(lengths: Sequence[int], turns: int, room: int = 16) -> list[FrontCost]:
    """The cost at each number of waiting clients, with `max_pending` at `room`."""
    return [asyncio.run(_serve(waiting, turns, room)) for waiting in lengths]
