"""Streams that are told in two pieces: the same contents, few events, nobody else's delay."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from gsr_engine import (
    AsyncEngine,
    CandidateToken,
    Engine,
    EngineConfig,
    InvalidRequest,
    RefineToken,
    SamplingParams,
    final_result,
)
from gsr_engine.demo.report import NANO
from gsr_engine.execution.loading import load_parts
from tests.helpers.readers import (
    ENDLESS,
    PARAMS,
    Events,
    assert_idle,
    in_thread,
    read,
    read_until,
    same,
    serving,
    verify,
)

pytestmark = pytest.mark.slow

Contents = dict[Any, tuple[list[int], str, list[float], list[Any]]]
_DRAWN = SamplingParams(n=3, seed=2, max_tokens=60, top_logprobs=2)
_FREE = SamplingParams(max_tokens=30, ignore_eos=True)
_ROUNDS = replace(PARAMS, candidate=_FREE, widths=(2,), subset=2, refinements=2)
_TALK = [{"role": "user", "content": "6*7"}]

ASKED: dict[str, tuple[Path | None, Callable[..., Any]]] = {
    "generate": (None, lambda engine, **how: engine.generate("hello", _DRAWN, **how)),
    "chat": (None, lambda engine, **how: engine.chat(_TALK, _DRAWN, **how)),
    "linear": (None, lambda engine, **how: engine.self_refine("2+1", PARAMS, **how)),
    "rounds": (None, lambda engine, **how: engine.self_refine("2+1", _ROUNDS, **how)),
    "given": (
        None,
        lambda engine, **how: engine.self_refine(
            "2+1", PARAMS, candidates=["1" * 70, [9, 8, 7]], **how
        ),
    ),
    "branched": (
        NANO,
        lambda engine, **how: engine.self_refine(
            "2 * 3", replace(PARAMS, layout="branched", candidate=_FREE), **how
        ),
    ),
}


def told(events: Events) -> Contents:
    """What the token events of each stream say together."""
    contents: Contents = {}
    for event in events:
        if isinstance(event, CandidateToken | RefineToken):
            ids, text, logprobs, top = contents.get(event.stream, ([], "", [], []))
            contents[event.stream] = (
                [*ids, *event.token_ids],
                text + event.text,
                [*logprobs, *event.logprobs],
                [*top, *event.top_logprobs],
            )
    return contents


def others(events: Events) -> list[Any]:
    """The events that bring no tokens, but for the first, which has another id, and the last."""
    return [one for one in events[1:-1] if not isinstance(one, CandidateToken | RefineToken)]


def pieces(events: Events) -> Counter[tuple[int, int]]:
    """How many token events each stream has."""
    tokens = (one for one in events if isinstance(one, CandidateToken | RefineToken))
    return Counter(one.stream for one in tokens)


@pytest.mark.parametrize("kind", ASKED)
def test_the_contents_are_the_same_in_two_pieces(kind: str, qwen2: Path) -> None:
    folder, ask = ASKED[kind]

    async def main() -> tuple[Events, ...]:
        async with serving(folder or qwen2) as engine:
            modes = ("none", "inner", "all")
            return tuple([await read(ask(engine, coalesce=mode)) for mode in modes])

    live, inner, coalesced = asyncio.run(main())
    assert told(live) == told(inner) == told(coalesced)
    assert sorted(map(str, others(live))) == sorted(map(str, others(coalesced)))
    assert same(live[-1].result, coalesced[-1].result)
    last = max(number for number, _ in told(live))
    given = kind == "given"  # its candidates are there at once: they are told in looks
    few = [count for (number, _), count in pieces(coalesced).items() if number or not given]
    assert max(few) <= 2
    assert all(
        count <= 2 for (number, _), count in pieces(inner).items() if number != last and not given
    )
    if last:
        number, index = max(told(live))
        assert len(told(live)[number, index][0]) == 30, "it is long enough to show a difference"
        assert pieces(inner)[number, index] > 2, "the last round is told as it comes"


def test_the_first_tokens_come_while_the_stream_runs(qwen2: Path) -> None:
    async def main() -> None:
        async with serving(qwen2) as engine:
            events = engine.generate([5], ENDLESS, coalesce="all")
            seen = await read_until(events, CandidateToken)
            assert (await engine.stats())["requests_running"] == 1
            assert 0 < len(seen[-1].token_ids) < 900
            verify(seen + await read(events))

    asyncio.run(main())


def test_a_stop_string(qwen2: Path) -> None:
    free = SamplingParams(seed=2, max_tokens=60, ignore_eos=True)
    with Engine.from_pretrained(qwen2) as engine:
        text = engine.generate(["hello"], free)[0].completions[0].text
    params = replace(free, stop=(text[20:25], "never" * 9))

    async def main() -> None:
        async with serving(qwen2) as engine:
            events = await read(engine.generate("hello", params, coalesce="all"))
            (stream,) = verify(events).completions
            assert stream.finish_reason == "stop"
            assert stream.text == text[: text.index(text[20:25])]
            assert max(pieces(events).values()) <= 2

    asyncio.run(main())


@pytest.mark.parametrize("ends", ["abort", "timeout"])
def test_a_stream_that_is_ended_early_is_told_whole(ends: str, qwen2: Path) -> None:
    clock, config = Mock(return_value=100.0), EngineConfig()
    inner = Engine(*load_parts(qwen2, config), config, clock=clock)
    params = replace(ENDLESS, n=2, timeout=5.0)

    async def main() -> None:
        async with AsyncEngine(inner) as engine:
            events = engine.generate([5], params, request_id="it", coalesce="all")
            seen = await read_until(events, CandidateToken)
            await engine.stats()
            if ends == "abort":
                assert await engine.abort("it")
            else:
                await in_thread(engine, lambda: setattr(clock, "return_value", 106.0))
            seen += await read(events)
            assert {one.finish_reason for one in verify(seen).completions} == {ends}
            assert max(pieces(seen).values()) <= 2
            await assert_idle(engine)

    asyncio.run(main())


def test_leaving_a_stream_of_which_nothing_is_told(qwen2: Path) -> None:
    async def main() -> None:
        async with serving(qwen2) as engine:
            events = engine.self_refine("1+1", replace(PARAMS, refine=ENDLESS), coalesce="all")
            await read_until(events, RefineToken)
            waiting = asyncio.ensure_future(anext(events))
            await engine.stats()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await assert_idle(engine)

    asyncio.run(main())


@pytest.mark.parametrize("bad", [True, "some", None, ["all"]])
def test_other_values_are_refused(bad: Any, qwen2: Path) -> None:
    async def main() -> None:
        async with serving(qwen2) as engine:
            for events in (
                engine.generate([5], coalesce=bad),
                engine.chat(_TALK, coalesce=bad),
                engine.self_refine("1+1", coalesce=bad),
            ):
                with pytest.raises(InvalidRequest, match="coalesce: must be none, inner or all"):
                    await anext(events)

    asyncio.run(main())


def test_readers_of_one_event_loop_are_woken_by_one_call(qwen2: Path) -> None:
    count, tokens = 12, 40
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    calls: Counter[str] = Counter()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        soon = loop.call_soon_threadsafe

        def counting(*args: Any, **options: Any) -> Any:
            calls[threading.current_thread().name] += 1
            return soon(*args, **options)

        inner = Engine.from_pretrained(qwen2)
        step = inner.step
        inner.step = Mock(side_effect=step)  # type: ignore[method-assign]
        async with AsyncEngine(inner) as engine:
            loop.call_soon_threadsafe = counting  # type: ignore[method-assign]
            asked = (read(engine.generate([5, one], params)) for one in range(count))
            every = await asyncio.gather(*asked)
            loop.call_soon_threadsafe = soon  # type: ignore[method-assign]
            assert all(verify(one) for one in every)
            told_events = sum(map(len, every))
            # One call for each step, and one for each request that was opened.
            assert calls["gsr-engine"] <= inner.step.call_count + 1 + count < told_events / 3

    asyncio.run(main())


def test_a_closed_event_loop_ends_its_own_requests_only(qwen2: Path) -> None:
    engine = AsyncEngine.from_pretrained(qwen2)
    gone, gate = asyncio.new_event_loop(), threading.Event()

    async def begin() -> list[Any]:
        asked = [engine.generate([5], ENDLESS, request_id=f"gone {one}") for one in range(3)]
        for events in asked:
            await read_until(events, CandidateToken)
        return [asyncio.ensure_future(read(events)) for events in asked]

    waiting = gone.run_until_complete(begin())
    held = engine.loop.call(gate.wait)  # the engine's thread stands still while the loop is closed

    def all_wait() -> bool:
        return all(one.mailbox.reader_waits for one in engine.loop.tickets.values())

    async def until_all_wait() -> None:
        while not (held.running() and all_wait()):
            await asyncio.sleep(0)

    gone.run_until_complete(until_all_wait())
    gone.close()

    async def main() -> Any:
        here = asyncio.create_task(read(engine.generate([6], _DRAWN)))
        await asyncio.sleep(0)
        gate.set()
        result = verify(await here)
        await assert_idle(engine)
        assert (await engine.stats())["completion_tokens"] < 3 * 900
        await engine.close()
        return result

    result = asyncio.run(main())
    for task in waiting:
        task._log_destroy_pending = False
        assert not task.done()
    with Engine.from_pretrained(qwen2) as fresh:
        assert same(result, fresh.generate([[6]], _DRAWN)[0])


def test_several_event_loops_at_once(qwen2: Path) -> None:
    engine = AsyncEngine.from_pretrained(qwen2)
    results: list[Any] = []

    async def ask() -> None:
        modes: tuple[Any, ...] = ("none", "inner", "all")
        asked = (engine.self_refine("2+1", PARAMS, coalesce=mode) for mode in modes)
        results.extend(await asyncio.gather(*map(final_result, asked)))

    hosts = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(3)]
    for thread in hosts:
        thread.start()
    for thread in hosts:
        thread.join()
    asyncio.run(engine.close())
    assert len(results) == 9
    assert all(same(result, results[0]) for result in results)
