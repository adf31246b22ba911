"""Reads the events of an `AsyncEngine`, and checks their order and completeness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gsr_engine import (
    AsyncEngine,
    CandidateDone,
    CandidateToken,
    Completion,
    Event,
    Final,
    GenerateResult,
    PhaseStarted,
    RefineResult,
    RefineToken,
    SamplingParams,
    SelfRefineParams,
    Submitted,
)

Events = list[Event[Any]]
ENDLESS = SamplingParams(max_tokens=900, ignore_eos=True)
PARAMS = SelfRefineParams(
    k=3,
    seed=5,
    candidate=SamplingParams(max_tokens=30),
    refine=SamplingParams(max_tokens=30, ignore_eos=True),
)
CANDIDATES, REFINEMENT = PhaseStarted("candidates", 0), PhaseStarted("refinement", 1)


@asynccontextmanager
async def serving(folder: Path, max_pending: int = 256, **options: Any) -> AsyncIterator[Any]:
    """An engine that at the end must have nothing to do and no page in use."""
    async with AsyncEngine.from_pretrained(folder, max_pending=max_pending, **options) as engine:
        yield engine
        await assert_idle(engine)


async def assert_idle(engine: AsyncEngine) -> None:
    await engine.check()
    stats = await engine.stats()
    assert stats["pages_used"] == stats["requests_running"] == stats["requests_waiting"] == 0
    assert await in_thread(engine, lambda: len(engine.loop.tickets)) == 0


def in_thread(engine: AsyncEngine, look: Callable[[], Any]) -> Awaitable[Any]:
    return asyncio.wrap_future(engine.loop.call(look))


async def until_waiting(engine: AsyncEngine, count: int) -> None:
    """Until that many requests wait for room."""
    while await in_thread(engine, lambda: len(engine.loop.waiting)) != count:
        pass


async def read(events: AsyncIterator[Event[Any]]) -> Events:
    return [event async for event in events]


async def read_until(events: AsyncIterator[Event[Any]], last: object) -> Events:
    """Read up to an event, or to one of a type."""
    seen: Events = []
    async for event in events:
        seen.append(event)
        if event == last or (isinstance(last, type) and isinstance(event, last)):
            return seen
    raise AssertionError(f"no {last} in {seen}")


def same(one: Any, other: Any) -> bool:
    """Whether two results hold the same streams."""
    return streams_of(one) == streams_of(other)


def streams_of(result: GenerateResult | RefineResult) -> list[tuple[list[int], str, str]]:
    if isinstance(result, GenerateResult):
        streams = result.completions
    else:
        streams = [*result.candidates, *([result.refinement] if result.refinement else [])]
    return [(stream.token_ids, stream.text, stream.finish_reason) for stream in streams]


def verify(events: Events) -> Any:
    """Order and completeness of a request's events; returns its result."""
    assert isinstance(events[0], Submitted)
    assert isinstance(events[-1], Final)
    result = events[-1].result
    kinds = [type(event) for event in events]
    assert kinds.count(Submitted) == kinds.count(Final) == 1
    generated = isinstance(result, GenerateResult)
    candidates = result.completions if generated else result.candidates
    refinement = None if generated else result.refinement
    expected = [CANDIDATES] * bool(candidates) + [REFINEMENT] * bool(refinement)
    assert [event for event in events if isinstance(event, PhaseStarted)] == expected
    if refinement is not None:
        place = events.index(REFINEMENT)
        assert not {CandidateToken, CandidateDone} & set(kinds[place:])
        assert RefineToken not in kinds[:place]
        verify_stream(refinement, [one for one in events if isinstance(one, RefineToken)])
    for index, candidate in enumerate(candidates):
        mine = [
            event
            for event in events
            if isinstance(event, CandidateToken | CandidateDone) and event.index == index
        ]
        assert mine[-1] == CandidateDone(index, candidate.finish_reason, candidate.stop_reason)
        verify_stream(candidate, mine[:-1])
    return result


def verify_stream(completion: Completion, events: list[Any]) -> None:
    assert all(isinstance(event, CandidateToken | RefineToken) for event in events)
    assert [token for event in events for token in event.token_ids] == completion.token_ids
    assert "".join(event.text for event in events) == completion.text
    assert all(event.token_ids or event.text for event in events)
