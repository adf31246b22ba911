"""python -m benchmarks.scaling.memory: what a process keeps after many requests.

Many requests with distinct prompts and salts pass through an engine whose model is a stub, a few at
a time. Of three requests one is aborted: at once, or after some steps. Of ten requests one is a
self-refinement with a deadline, far away or soon reached. The same passes through an `AsyncEngine`.

Printed are the resident size and what the engine keeps, at equal distances. After the first figure
the sizes should stay equal to a few MiB: until then the pool fills with cached prompts. With
`--trace` the lines of code that hold more memory in the end than at the first figure follow.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import tracemalloc
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.stub_runner import stub_engine
from gsr_engine import AsyncEngine, Engine, SamplingParams, SelfRefineParams
from gsr_engine.requests.generate import GenerateRequest
from gsr_engine.requests.self_refine import SelfRefineRequest
from train.command import run_command
from train.progress import tracked

_TOKENS = 8
_CALLERS = 64
"""Requests that are unfinished at the same time."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds between two requests.

    Attributes:
        requests: that were finished so far.
        resident_mib: resident size of the process.
        objects: Python objects that the garbage collector knows.
        kept: requests among them; all of them are finished.
        deadlines: deadlines that the scheduler keeps.
        salts: salts that the prefix cache knows.
        pages: pages that only the prefix cache holds.
    """

    requests: int
    resident_mib: float
    objects: int
    kept: int
    deadlines: int
    salts: int
    pages: int


def resident_mib() -> float:
    """Resident size of this process, from Linux's /proc."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def look(engine: Engine, requests: int) -> Footprint:
    """The footprint of now, after a garbage collection."""
    gc.collect()
    objects = gc.get_objects()
    stats = engine.stats()
    return Footprint(
        requests,
        resident_mib(),
        len(objects),
        sum(type(one) in (GenerateRequest, SelfRefineRequest) for one in objects),
        engine.scheduler.num_deadlines,
        stats["prefix_cache"]["salts"],
        stats["pages_cached"],
    )


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the load; what it is depends on its index alone.

    Attributes:
        index: its place in the load.
    """

    index: int

    @property
    def patience(self) -> int | None:
        """Steps or events after which it is aborted; None if it is not."""
        return self.index // 3 % 4 if self.index % 3 == 0 else None

    @property
    def refines(self) -> bool:
        """Whether it is a self-refinement, with a deadline."""
        return self.index % 10 == 0

    @property
    def problem(self) -> str:
        """A text that no other request has."""
        return f"{self.index} times {self.index % 97} "

    @property
    def prompt(self) -> list[int]:
        """Token ids that begin like no other request's."""
        rng = random.Random(self.index)
        return [rng.randrange(6, 400) for _ in range(rng.randrange(20, 60))]

    @property
    def sampling(self) -> SamplingParams:
        """Of a completion."""
        return SamplingParams(max_tokens=_TOKENS, cache_salt=f"salt {self.index}")

    @property
    def refining(self) -> SelfRefineParams:
        """Of a self-refinement; of two deadlines one is reached."""
        short = SamplingParams(max_tokens=_TOKENS)
        timeout = 1e6 if self.index % 20 else 1e-3
        salt = f"salt {self.index}"
        return SelfRefineParams(
            k=2, candidate=short, refine=short, candidate_timeout=timeout, cache_salt=salt
        )

    def made(self, engine: Engine) -> Any:
        """The request itself."""
        if self.refines:
            return engine.new_self_refine(self.problem, self.refining)
        return engine.new_generate(self.prompt, self.sampling)


def serve(engine: Engine, requests: int, every: int, shown: bool = False) -> Iterator[Footprint]:
    """Pass requests through an engine, and look after each `every` of them."""
    live: list[tuple[Any, int | None]] = []
    for index in tracked(range(requests), "requests", shown=shown):
        ask = Ask(index)
        request = ask.made(engine)
        engine.submit(request)
        live.append((request, ask.patience))
        while len(live) >= _CALLERS:
            live = _step(engine, live)
        if (index + 1) % every == 0:
            while live:
                live = _step(engine, live)
            yield look(engine, index + 1)


def _step(engine: Engine, live: list[tuple[Any, int | None]]) -> list[tuple[Any, int | None]]:
    """Abort whose patience is over, take a step; returns those that are left."""
    for request, patience in live:
        if patience == 0:
            engine.abort(request)
    engine.step()
    return [
        (request, patience if patience is None else patience - 1)
        for request, patience in live
        if request.result is None
    ]


async def serve_async(
    engine: Engine, requests: int, every: int, shown: bool = False
) -> list[Footprint]:
    """The same through an `AsyncEngine`; it closes the engine."""
    found = []

    async def caller(front: AsyncEngine, indices: Iterator[int]) -> None:
        for index in indices:
            await _read(front, Ask(index))

    async with AsyncEngine(engine, max_pending=_CALLERS // 2) as front:
        for start in tracked(range(0, requests, every), "rounds of callers", shown=shown):
            shared = iter(range(start, start + every))
            await asyncio.gather(*(caller(front, shared) for _ in range(_CALLERS)))
            while (await front.stats())["requests_running"]:  # aborted ones end with a step
                pass
            found.append(look(engine, start + every))
    return found


async def _read(front: AsyncEngine, ask: Ask) -> None:
    """Read the events of a request, and leave when patience is over."""
    events: AsyncGenerator[Any, None]
    if ask.refines:
        events = front.self_refine(ask.problem, ask.refining)
    else:
        events = front.generate(ask.prompt, ask.sampling)
    async with aclosing(events):
        seen = 0
        async for _ in events:
            seen += 1
            if ask.patience is not None and seen > ask.patience:
                break


def show(console: Console, title: str, footprints: Sequence[Footprint]) -> None:
    """A line for each look."""
    table = Table(title=title, title_justify="left")
    for name in (
        "requests",
        "resident MiB",
        "objects",
        "requests kept",
        "deadlines",
        "salts",
        "cached pages",
    ):
        table.add_column(name, justify="right")
    for one in footprints:
        table.add_row(
            f"{one.requests:,}",
            f"{one.resident_mib:,.1f}",
            f"{one.objects:,}",
            f"{one.kept:,}",
            f"{one.deadlines:,}",
            f"{one.salts:,}",
            f"{one.pages:,}",
        )
    console.print(table)


def _growth(first: tracemalloc.Snapshot, last: tracemalloc.Snapshot) -> str:
    """The lines of code that gained most between two snapshots."""
    return "\n".join(str(line) for line in last.compare_to(first, "lineno")[:12])


def main(
    requests: Annotated[int, typer.Option(min=10, help="Through the engine.")] = 50_000,
    async_requests: Annotated[
        int, typer.Option(min=0, help="Through the asyncio front; 0 for none.")
    ] = 5000,
    looks: Annotated[int, typer.Option(min=2, help="Figures of each, at equal distances.")] = 10,
    pages: Annotated[int, typer.Option(min=1024, help="KV pages of the pool.")] = 2048,
    trace: Annotated[bool, typer.Option(help="Show the lines that gained; far slower.")] = False,
) -> None:
    """Measure what a process keeps after many requests."""
    console = Console(width=100)
    if trace:
        tracemalloc.start()
    snapshots: list[tracemalloc.Snapshot] = []
    footprints = []
    with stub_engine(_TOKENS, num_pages=pages, max_num_seqs=_CALLERS) as engine:
        for footprint in serve(engine, requests, requests // looks, shown=True):
            footprints.append(footprint)
            if trace:
                snapshots = [*snapshots[:1], tracemalloc.take_snapshot()]
    show(console, "Engine", footprints)
    if trace:
        console.print(_growth(*snapshots), markup=False)
        tracemalloc.stop()
    if async_requests:
        engine = stub_engine(_TOKENS, num_pages=pages, max_num_seqs=_CALLERS)
        every = async_requests // looks
        show(console, "AsyncEngine", asyncio.run(serve_async(engine, every * looks, every, True)))


if __name__ == "__main__":
    run_command("scaling memory", lambda: typer.run(main))
