"""Back-pressure both ways: callers wait for room, and events wait for a slow reader."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from gsr_engine import (
    AsyncEngine,
    CandidateDone,
    CandidateToken,
    Engine,
    Final,
    InvalidRequest,
    QueueFull,
    RefineToken,
    SamplingParams,
    Submitted,
)
from gsr_engine.serving.mailbox import Mailbox
from tests.helpers.readers import (
    ENDLESS,
    PARAMS,
    Events,
    assert_idle,
    read,
    read_until,
    same,
    serving,
    until_waiting,
    verify,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("max_pending", [0, -1, True, 1.5, None])
def test_bad_max_pending(max_pending: Any, qwen2: Path) -> None:
    with (
        Engine.from_pretrained(qwen2) as engine,
        pytest.raises(InvalidRequest, match="max_pending"),
    ):
        AsyncEngine(engine, max_pending=max_pending)


def test_callers_wait_for_room_in_their_order(qwen2: Path) -> None:
    order: list[str] = []

    async def caller(engine: AsyncEngine, name: str) -> Any:
        seen: Events = []
        async for event in engine.self_refine(f"{name}+1", PARAMS, request_id=name):
            seen.append(event)
            if isinstance(event, Submitted):
                order.append(event.request_id)
        return verify(seen)

    async def main() -> list[Any]:
        inner = Engine.from_pretrained(qwen2)
        most = count_unfinished(inner)
        async with AsyncEngine(inner, max_pending=1) as engine:
            results = await asyncio.gather(*(caller(engine, name) for name in "12345"))
            assert max(most) == 1
            await assert_idle(engine)
            return results

    results = asyncio.run(main())
    assert order == list("12345")
    with Engine.from_pretrained(qwen2) as engine:
        for name, result in zip("12345", results, strict=True):
            assert same(result, engine.self_refine([f"{name}+1"], PARAMS)[0])


def count_unfinished(engine: Engine) -> list[int]:
    """Record the number of unfinished requests at every step from now on."""
    counts, step = [0], engine.step

    def counting() -> Any:
        counts.append(engine.scheduler.num_running + engine.scheduler.num_waiting)
        return step()

    engine.step = counting  # type: ignore[method-assign]
    return counts


def test_no_room_for_who_would_not_wait(qwen2: Path) -> None:
    async def main() -> None:
        async with serving(qwen2, max_pending=2) as engine:
            first, second = (engine.generate([5], ENDLESS) for _ in range(2))
            await anext(first)
            await anext(second)
            with pytest.raises(QueueFull, match="max_pending is 2"):
                await anext(engine.generate([5], wait=False))
            await first.aclose()
            short = SamplingParams(max_tokens=2)
            verify(await read(engine.generate([5], short, wait=False)))
            await second.aclose()

    asyncio.run(main())


def test_leaving_while_waiting_for_room(qwen2: Path) -> None:
    async def main() -> None:
        async with serving(qwen2, max_pending=1) as engine:
            running = engine.generate([5], ENDLESS)
            await anext(running)
            gone = asyncio.create_task(read(engine.self_refine("1+1", PARAMS)))
            await until_waiting(engine, 1)
            named = asyncio.create_task(read(engine.self_refine("1+1", PARAMS, request_id="it")))
            await until_waiting(engine, 2)
            last = asyncio.create_task(read(engine.self_refine("2+1", PARAMS)))
            await until_waiting(engine, 3)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            assert await engine.abort("it")
            aborted = verify(await named)
            assert (aborted.candidates, aborted.error) == ([], "aborted")
            await until_waiting(engine, 1)
            await running.aclose()
            assert verify(await last).refinement is not None

    asyncio.run(main())


def test_a_slow_reader_has_one_unread_token_event_per_stream(qwen2: Path) -> None:
    async def main() -> Any:
        async with serving(qwen2) as engine:
            events = engine.self_refine("2+1", PARAMS)
            seen = await read_until(events, CandidateToken)
            await engine.drain()  # all tokens are generated while the reader reads nothing
            unread = await read(events)
            streams = [
                event.stream for event in unread if isinstance(event, CandidateToken | RefineToken)
            ]
            assert len(streams) == len(set(streams))
            return verify(seen + unread)

    result = asyncio.run(main())
    with Engine.from_pretrained(qwen2) as engine:
        assert same(result, engine.self_refine(["2+1"], PARAMS)[0])


def test_token_events_join_in_the_mailbox() -> None:
    async def main() -> None:
        mailbox = Mailbox()
        mailbox.put([CandidateToken(0, (1,), "a"), CandidateToken(1, (2,), "b")])
        mailbox.put([CandidateToken(0, (3, 4), "cd"), CandidateDone(0, "stop")])
        mailbox.put([RefineToken(1, 0, (5,), "e"), RefineToken(2, 0, (6,), "f")])
        mailbox.put([RefineToken(1, 0, (7,), "g"), Final(None)])
        mailbox.fail(ValueError("last"))
        assert [await mailbox.get() for _ in range(6)] == [
            CandidateToken(0, (1, 3, 4), "acd"),
            CandidateToken(1, (2,), "b"),
            CandidateDone(0, "stop"),
            RefineToken(1, 0, (5, 7), "eg"),
            RefineToken(2, 0, (6,), "f"),
            Final(None),
        ]
        with pytest.raises(ValueError, match="last"):
            await mailbox.get()

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(3))
def test_callers_who_come_and_go_as_they_like(seed: int, qwen2: Path) -> None:
    """In a small pool with little room, callers read on, pause, leave or abort at random."""
    rng = random.Random(seed)

    async def caller(engine: AsyncEngine, number: int) -> None:
        name = str(number)
        asked: Any = engine.generate([5] * (number + 1), SamplingParams(n=2, max_tokens=20))
        if number % 2:
            asked = engine.self_refine(f"{number}+1", PARAMS, request_id=name)
        leave, last = rng.choice(("never", "close", "abort")), rng.randrange(1, 40)
        seen: Events = []
        async with aclosing(asked) as events:
            async for event in events:
                seen.append(event)
                if len(seen) == last and leave == "close":
                    return
                if len(seen) == last and leave == "abort":
                    await engine.abort(name)
                for _ in range(rng.choice((0, 0, 5))):
                    await engine.check()
        verify(seen)

    async def main() -> None:
        async with serving(qwen2, max_pending=4, kv_cache_gib=0.0005) as engine:
            await asyncio.gather(*(caller(engine, number) for number in range(16)))

    asyncio.run(main())
