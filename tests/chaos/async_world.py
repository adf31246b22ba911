"""An `AsyncEngine` over nano: readers of every kind, and a device that breaks."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from gsr_engine import (
    AsyncEngine,
    CandidateToken,
    Engine,
    EngineClosed,
    EngineConfig,
    Final,
    GsrError,
    InvalidRequest,
    RefineToken,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.demo.report import NANO
from gsr_engine.params import Layout
from gsr_engine.serving.events import Event as Told
from tests.chaos.actions import Event, Fault, timed
from tests.chaos.engine_world import MAX_STREAMS, Make, nano
from tests.chaos.nano_world import compare_alone, new_saboteur

Manner = Literal["eager", "eager", "slow", "stops", "leaves"]
_MANNERS: tuple[Manner, ...] = ("eager", "eager", "slow", "stops", "leaves")
_PATIENCE = 120.0
"""Seconds after which a reader that was told nothing counts as forgotten."""


@dataclass
class Reader:
    """Who waits for one request."""

    name: str
    manner: Manner
    make: Make | None
    told: list[Told[Any]] = field(default_factory=list)
    refused: GsrError | None = None
    task: asyncio.Task[None] | None = None


class AsyncWorld:
    """See `World`. `log` is the order of what was asked and what was answered."""

    faults: tuple[Fault, ...] = (
        "launch",
        "attention",
        "sampling",
        "transfer",
        "nan",
        "nan",
        "memory",
    )
    problems = ("1 * 2", "1 * 3", "7 * 8 * 9 + 1")
    layouts: tuple[Layout, ...] = ("linear", "branched")
    longest = 200
    soon = 0.05

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self._runner = new_saboteur(rng.choice((36, 60, 200)))
        config = EngineConfig(
            max_num_seqs=MAX_STREAMS,
            max_batch_tokens=rng.choice((40, 100, 400)),
            prefix_cache=rng.random() < 0.8,
        )
        self._engine = Engine(*nano(), config, runner=self._runner)
        self._max_pending = rng.choice((2, 8, 30))
        self._closes = rng.random() < 0.5
        self.readers: list[Reader] = []
        self.said: list[list[int]] = []
        self.log: list[str] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._pause = 0.0

    async def live_through(self, history: list[Event]) -> None:
        """Let a history happen, check after every action, and let everybody reach an end."""
        async with AsyncEngine(self._engine, max_pending=self._max_pending) as self._front:
            for event in history:
                self.log.append(str(event))
                self._pause = 0.0
                event.happen(self)
                await asyncio.sleep(self._pause)
                await self._front.check()
            if not self._closes:
                await self._everybody()
                assert (await self._front.stats())["pages_used"] == 0
        await self._everybody()
        for reader in self.readers:
            self._judge(reader)
        compare_alone(self._ended())

    async def _everybody(self) -> None:
        tasks = [reader.task for reader in self.readers if reader.task] + self._tasks
        _, late = await asyncio.wait(tasks, timeout=_PATIENCE) if tasks else ((), ())
        assert not late, f"{len(late)} callers were forgotten"
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, EngineClosed), error

    def step(self) -> None:
        self._pause = 0.005

    def generate(self, prompt: list[int], params: SamplingParams) -> None:
        def make(engine: Engine) -> Any:
            return engine.new_generate(prompt, params)

        self._read(partial(self._front.generate, prompt, params), None if timed(params) else make)

    def refine(self, problem: str, params: SelfRefineParams, given: list[list[int]] | None) -> None:
        def make(engine: Engine) -> Any:
            return engine.new_self_refine(problem, params, candidates=given)

        events = partial(self._front.self_refine, problem, params, candidates=given)
        self._read(events, None if timed(params) else make)

    def two_engines(self, problem: str, params: SelfRefineParams) -> None:
        """An asynchronous engine refines what others wrote, as text."""
        events = partial(self._front.self_refine, problem, candidates=["2", "4", ""])
        self._read(events, None)

    def _read(self, events: Any, make: Make | None, name: str = "") -> None:
        number = len(self.readers)
        manner = random.Random(number).choice(_MANNERS)
        reader = Reader(name or f"request {number}", manner, make)
        self.readers.append(reader)
        reader.task = asyncio.create_task(self._follow(events(request_id=reader.name), reader))

    async def _follow(self, events: AsyncGenerator[Told[Any], None], reader: Reader) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    reader.told.append(event)
                    if reader.manner == "slow":
                        await asyncio.sleep(0.01)
                    elif reader.manner == "stops" and len(reader.told) == 4:
                        await asyncio.sleep(0.5)
                    elif reader.manner == "leaves" and len(reader.told) == 6:
                        break
        except GsrError as error:
            reader.refused = error
        self.log.append(f"{reader.name}: {type(reader.told[-1] if reader.told else None).__name__}")

    def abort(self, rng: random.Random) -> None:
        reading = [one for one in self.readers if one.task and not one.task.done()]
        if reading:
            reader = rng.choice(reading)
            if rng.random() < 0.5:
                reader.manner = "leaves"
                reader.task.cancel()  # type: ignore[union-attr]
            else:
                self._tasks.append(asyncio.create_task(self._front.abort(reader.name)))

    def misuse(self, rng: random.Random) -> None:
        async def abort_nobody() -> None:
            assert not await self._front.abort("nobody")

        self._tasks.append(asyncio.create_task(abort_nobody()))
        for reader in rng.sample(self.readers, min(1, len(self.readers))):
            self._read(partial(self._front.generate, [7]), None, reader.name)  # an id twice
            self._read(partial(self._front.generate, [7], "no params"), None)

    def evict(self) -> None:
        cache = self._engine.memory.cache
        if cache:
            self._front.loop.call(cache.evict)

    def reload(self) -> None:
        self._front.loop.call(partial(self._engine.reload_weights, NANO))

    def fault(self, kind: Fault, rng: random.Random) -> None:
        self._runner.fault, self._runner.fault_row = kind, rng.randrange(1000)

    def _judge(self, reader: Reader) -> None:
        """Everybody is answered exactly once, and is told all that the answer says."""
        finals = [event for event in reader.told if isinstance(event, Final)]
        if reader.refused is not None:
            assert not finals
            assert isinstance(reader.refused, InvalidRequest | EngineClosed), reader.refused
        elif reader.manner != "leaves":
            assert reader.told[-1:] == finals, f"{reader.name} was not answered"
        if finals:
            self._judge_tokens(reader, finals[0].result)

    def _judge_tokens(self, reader: Reader, result: Any) -> None:
        tokens: dict[tuple[int, int], list[int]] = defaultdict(list)
        texts: dict[tuple[int, int], str] = defaultdict(str)
        for event in reader.told:
            if isinstance(event, CandidateToken | RefineToken):
                tokens[event.stream] += event.token_ids
                texts[event.stream] += event.text
        first = result.completions if hasattr(result, "completions") else result.candidates
        for number, every in enumerate([first, *getattr(result, "rounds", [])]):
            for one in every:
                assert tokens[number, one.index] == one.token_ids
                assert texts[number, one.index] == one.text

    def _ended(self) -> list[tuple[Any, Make]]:
        return [
            (event.result, reader.make)
            for reader in self.readers
            for event in reader.told[-1:]
            if isinstance(event, Final) and reader.make is not None
        ]
