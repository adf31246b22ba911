"""Phase 1: a server in a thread over a device that breaks; afterwards nobody has left a trace."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.scaling.memory import resident_mib
from gsr_engine import AsyncEngine, Engine, EngineConfig
from gsr_engine.serving import Settings, create_app
from tests.chaos.engine_world import MAX_STREAMS, nano
from tests.chaos.http.clients import Crowd, Tally, after
from tests.chaos.http.questions import MOST_BODY
from tests.chaos.http.wire import Address
from tests.chaos.http.world import BrokenWorld, Log
from tests.chaos.nano_world import new_saboteur
from tests.helpers.live_server import live

_SETTLES = 30.0
_GROSS_KIB, _GROSS_MIB = 4096.0, 128.0
"""Growth that no allocator explains: KiB per 1,000 requests, and MiB in all."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it.

    Attributes:
        tally: of the clients.
        kib_per_thousand: growth of the resident size per 1,000 requests, behind the first third;
            None if there was too little to see.
        resident_mib: resident size in the end.
        compared, ties: answers that an engine alone gave again, and those that differed.
    """

    tally: Tally
    kib_per_thousand: float | None
    resident_mib: float
    compared: int
    ties: int


class Watched:
    """An application, and the event loop that it runs in."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.loop = asyncio.get_running_loop()
        await self._app(scope, receive, send)

    def tasks(self) -> list[str]:
        """The unfinished tasks of the server."""
        assert self.loop is not None
        return sorted(repr(task.get_coro()) for task in asyncio.all_tasks(self.loop))


def break_everything(seed: int, clients: int, seconds: float) -> Report:
    """Let a crowd loose on a server whose device breaks, and look at what is left.

    Raises:
        AssertionError: a client was not answered as it must be, or something is left.
    """
    rng, before = random.Random(seed), set(threading.enumerate())
    runner = new_saboteur(rng.choice((60, 200)))
    config = EngineConfig(max_num_seqs=MAX_STREAMS, max_batch_tokens=rng.choice((100, 400)))
    inner = Engine(*nano(), config, runner=runner)
    engine = AsyncEngine(inner, max_pending=rng.choice((50, 150)))
    settings = Settings(model_name="nano", max_body_bytes=MOST_BODY, keep_alive_seconds=0.5)
    app = Watched(create_app(engine, settings=settings))
    world, log = BrokenWorld(seed, engine, runner, inner.memory.cache), Log()
    crowd = Crowd(world, seed, log, after(seconds))
    try:
        with complaints() as heard, live(app) as url:
            host, port = url.removeprefix("http://").split(":")
            samples = asyncio.run(_under_watch(crowd, (host, int(port)), clients, app, engine))
        assert not heard, heard[:3]
    finally:
        asyncio.run(engine.close())
    _nothing_runs(before)
    slope = growth(samples)
    compared, ties = _compare_alone(crowd.tally)
    return Report(crowd.tally, slope, resident_mib(), compared, ties)


async def _under_watch(
    crowd: Crowd, address: Address, clients: int, app: Watched, engine: AsyncEngine
) -> list[tuple[int, float]]:
    """Let the crowd live; questions and resident MiB, several times."""
    samples: list[tuple[int, float]] = []

    async def sample() -> None:
        while True:
            samples.append((crowd.tally.asked, resident_mib()))
            await asyncio.sleep(0.5)

    _, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await asyncio.sleep(0.2)
    writer.close()
    await asyncio.sleep(0.2)
    idle = app.tasks()
    sampling = asyncio.create_task(sample())
    try:
        await crowd.live(address, clients)
    finally:
        sampling.cancel()
    await _all_is_free(engine, app, idle)
    return samples


async def _all_is_free(engine: AsyncEngine, app: Watched, idle: list[str]) -> None:
    """Within seconds no request, page or task is left."""
    ends = time.monotonic() + _SETTLES
    while len(app.tasks()) > len(idle) or engine.loop.tickets:
        assert time.monotonic() < ends, (list(engine.loop.tickets), app.tasks())
        await asyncio.sleep(0.05)
    stats = await engine.stats()
    assert stats["pages_used"] == 0
    assert stats["requests_running"] == stats["requests_waiting"] == 0
    assert stats["streams_running"] == stats["streams_waiting"] == 0
    await engine.check()


def _nothing_runs(before: set[threading.Thread]) -> None:
    ends = time.monotonic() + _SETTLES
    while more := set(threading.enumerate()) - before:
        assert time.monotonic() < ends, more
        time.sleep(0.05)


@contextmanager
def complaints() -> Iterator[list[str]]:
    """What the server, its framework and asyncio log as errors."""
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(self.format(record))

    listener = Listener(logging.ERROR)
    loggers = [logging.getLogger(name) for name in ("uvicorn", "asyncio", "gsr_engine.serving")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(listener)
        logger.setLevel(logging.ERROR)
    try:
        yield heard
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(listener)
            logger.setLevel(level)


def growth(samples: list[tuple[int, float]]) -> float | None:
    """KiB per 1,000 questions, by least squares; the first third only fills caches.

    Raises:
        AssertionError: it grows as only a leak does.
    """
    later = samples[len(samples) // 3 :]
    if len(later) < 4 or later[-1][0] - later[0][0] < 100:
        return None
    asked, mib = np.array(later).T
    slope = float(np.polyfit(asked / 1000, mib * 1024, 1)[0])
    leaks = slope > _GROSS_KIB and mib[-1] - mib[0] > _GROSS_MIB
    assert not leaks, f"{slope:,.0f} KiB per 1,000 requests: {samples[:: len(samples) // 10]}"
    return slope


def _compare_alone(tally: Tally) -> tuple[int, int]:
    """Ask another engine for the same: nobody got an answer of somebody else.

    A tie may fall otherwise after a prompt that was found, cut or computed again.
    """
    ties = 0
    with Engine(*nano(), EngineConfig(max_num_seqs=MAX_STREAMS, prefix_cache=False)) as engine:
        for question, tokens in tally.kept:
            assert question.params is not None
            (result,) = engine.generate([list(question.prompt)], question.params)
            ties += [one.token_ids for one in result.completions] != tokens
    assert ties <= max(1, len(tally.kept) / 20), f"{ties} of {len(tally.kept)} answers differ"
    return len(tally.kept), ties
