"""Nobody's request is everybody's delay: long inputs, absent readers and waiting callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gsr_engine import (
    AsyncEngine,
    CandidateToken,
    Engine,
    EngineClosed,
    EngineConfig,
    SamplingParams,
    SelfRefineParams,
    final_result,
)
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.execution.loading import load_parts
from gsr_engine.outputs import TIMED_OUT
from gsr_engine.serving.observer import LOOK
from gsr_engine.text.detokenizer import Detokenizer
from tests.helpers.clock import Clock
from tests.helpers.readers import (
    ENDLESS,
    PARAMS,
    assert_idle,
    in_thread,
    read,
    read_until,
    same,
    serving,
    until_waiting,
    verify,
)

pytestmark = pytest.mark.slow

SHORT = 100  # in the tests with a slow tokenizer
LONG = "1" * (SHORT + 1)


class SlowTokenizing:
    """Long texts are not tokenised before `go` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.threads: list[str] = []
        monkeypatch.setattr("gsr_engine.serving.makers.SHORT", SHORT)
        for name in ("encode_prompt", "encode_solution"):
            encode = getattr(Tokenizer, name)

            def slow(tokenizer: Tokenizer, text: str, *more: Any, encode: Any = encode) -> Any:
                self.threads.append(threading.current_thread().name)
                if len(text) > SHORT:
                    self.begun.set()
                    assert self.go.wait(60)
                return encode(tokenizer, text, *more)

            monkeypatch.setattr(Tokenizer, name, slow)

    async def until_begun(self) -> None:
        while not self.begun.is_set():
            await asyncio.sleep(0)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowTokenizing:
    return SlowTokenizing(monkeypatch)


def test_others_come_to_their_end_while_a_long_text_is_tokenised(
    qwen2: Path, slow: SlowTokenizing
) -> None:
    async def main() -> None:
        async with serving(qwen2) as engine:
            running = asyncio.create_task(read(engine.generate([5], ENDLESS)))
            long = asyncio.create_task(read(engine.generate(LONG, ENDLESS)))
            await slow.until_begun()
            # What was running ends, and what comes later is taken, is run, and ends.
            assert verify(await running).completions
            assert verify(await read(engine.self_refine("1+1", PARAMS))).refinement
            assert not long.done()
            slow.go.set()
            assert verify(await long).completions
            assert not any("gsr-engine" in name for name in slow.threads)

    asyncio.run(main())


def test_leaving_while_the_request_is_made(qwen2: Path, slow: SlowTokenizing) -> None:
    async def main() -> None:
        async with serving(qwen2) as engine:
            leaving = asyncio.create_task(read(engine.generate(LONG, ENDLESS)))
            await slow.until_begun()
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            slow.go.set()
            await final_result(engine.generate(LONG, SamplingParams(max_tokens=1)))
            assert (await engine.stats())["requests_finished"] == 1
            await assert_idle(engine)

    asyncio.run(main())


def test_close_while_a_request_is_made(qwen2: Path, slow: SlowTokenizing) -> None:
    async def main() -> None:
        engine = AsyncEngine.from_pretrained(qwen2)
        making = [asyncio.create_task(read(engine.generate(LONG))) for _ in range(3)]
        await slow.until_begun()
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        slow.go.set()
        await closing
        for task in making:
            with pytest.raises(EngineClosed, match="the engine is closed"):
                await task

    asyncio.run(main())


def test_threads_tokenise_at_the_same_time(qwen2: Path) -> None:
    """Plain text and markup, in turn and together: no call changes what another one uses."""
    tokenizer = Tokenizer.from_folder(qwen2)
    text = "<|im_start|>1+1<|im_end|>"
    plain, markup = tokenizer.encode_text(text), tokenizer.encode_markup(text)
    assert plain != markup
    gate = threading.Barrier(8)

    def use(number: int) -> bool:
        gate.wait()
        encode, expected = (
            (tokenizer.encode_text, plain) if number % 2 else (tokenizer.encode_markup, markup)
        )
        return all(encode(text) == expected for _ in range(300))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))


def test_a_reader_that_was_away_is_told_in_small_pieces(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(n=3, seed=1, max_tokens=400, ignore_eos=True)
    looks: list[int] = []
    push = Detokenizer.push

    def counting(self: Detokenizer, token_ids: list[int]) -> str:
        looks.append(len(token_ids))
        return push(self, token_ids)

    async def main() -> Any:
        async with serving(qwen2) as engine:
            events = engine.generate([5], params)
            seen = await read_until(events, CandidateToken)
            monkeypatch.setattr(Detokenizer, "push", counting)
            await engine.drain()  # all is generated and told while nobody reads
            monkeypatch.undo()
            rest = await read(events)
            assert len(rest) == 3 + 3 + 1  # one token event and one end for each stream, and Final
            return verify(seen + rest)

    result = asyncio.run(main())
    assert sum(looks) >= 3 * 390
    assert max(looks) <= LOOK // 3
    with Engine.from_pretrained(qwen2) as engine:
        assert same(result, engine.generate([[5]], params)[0])


def test_a_stop_string_that_is_told_late(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2) as engine:
        free = engine.generate(
            [[5]], SamplingParams(seed=2, max_tokens=300, ignore_eos=True, min_tokens=300)
        )
    text = free[0].completions[0].text
    places = [i for i in range(150, len(text) - 5) if text.find(text[i : i + 5]) == i]
    stop = text[places[0] : places[0] + 5]
    params = SamplingParams(seed=2, max_tokens=300, ignore_eos=True, stop=(stop, "never" * 9), n=1)

    async def main() -> None:
        async with serving(qwen2) as engine:
            events = engine.generate([5], params)
            seen = await read_until(events, CandidateToken)
            await engine.drain()
            result = verify(seen + await read(events))
            assert result.completions[0].text == text[: places[0]]

    asyncio.run(main())


@asynccontextmanager
async def timed(folder: Path, clock: Clock, max_pending: int) -> AsyncIterator[AsyncEngine]:
    config = EngineConfig()
    engine = Engine(*load_parts(folder, config), config, clock=clock)
    async with AsyncEngine(engine, max_pending=max_pending) as front:
        yield front


def test_a_timeout_passes_while_the_request_waits_for_room(qwen2: Path) -> None:
    clock = Clock()

    async def main() -> None:
        async with timed(qwen2, clock, max_pending=1) as engine:
            running = engine.generate([5], ENDLESS)
            await anext(running)
            late, early, timeless = (
                asyncio.create_task(
                    read(
                        engine.self_refine("1+1", SelfRefineParams(k=1, candidate_timeout=timeout))
                    )
                )
                for timeout in (60.0, 5.0, None)
            )
            await until_waiting(engine, 3)
            await in_thread(engine, lambda: setattr(clock, "now", 106.0))
            (result,) = [verify(await early)]
            assert result.error == "the candidate timeout passed before the request was admitted"
            assert not late.done()
            await until_waiting(engine, 2)
            await in_thread(engine, lambda: setattr(clock, "now", 161.0))
            assert verify(await late).error == result.error
            assert not timeless.done()
            await running.aclose()
            timeless.cancel()

    asyncio.run(main())


def test_a_timeout_counts_from_the_call(qwen2: Path, slow: SlowTokenizing) -> None:
    clock = Clock()
    params = SelfRefineParams(k=1, candidate_timeout=5.0, candidate=SamplingParams(max_tokens=5))

    async def main() -> None:
        async with timed(qwen2, clock, max_pending=9) as engine:
            asked = asyncio.create_task(
                final_result(engine.self_refine("1+1", params, candidates=[LONG]))
            )
            await slow.until_begun()
            clock.now = 106.0
            slow.go.set()
            assert (
                await asked
            ).error == "the candidate timeout passed before the request was admitted"

    asyncio.run(main())


def test_every_kind_of_request_times_out_while_it_waits_for_room(qwen2: Path) -> None:
    clock = Clock()
    drawn = SamplingParams(max_tokens=5, timeout=5.0)
    refining = SelfRefineParams(k=1, candidate_timeout=50.0, timeout=5.0)
    message = [{"role": "user", "content": "1+1"}]

    async def main() -> None:
        async with timed(qwen2, clock, max_pending=1) as engine:
            running = engine.generate([5], ENDLESS)
            await anext(running)
            asked = [
                asyncio.create_task(read(engine.generate([6], drawn))),
                asyncio.create_task(read(engine.chat(message, drawn))),
                asyncio.create_task(read(engine.self_refine("1+1", refining))),
            ]
            await until_waiting(engine, 3)
            await in_thread(engine, lambda: setattr(clock, "now", 106.0))
            results = [verify(await one) for one in asked]
            assert [one.error for one in results] == [
                TIMED_OUT,
                TIMED_OUT,
                f"{TIMED_OUT} of the refinement",
            ]
            await running.aclose()

    asyncio.run(main())


def test_a_stream_that_timed_out_was_told_whole(qwen2: Path) -> None:
    clock = Clock()

    async def main() -> None:
        async with timed(qwen2, clock, max_pending=9) as engine:
            timeout = replace(ENDLESS, n=2, timeout=5.0)
            events = engine.generate([5], timeout)
            seen = [await anext(events) for _ in range(4)]
            await in_thread(engine, lambda: setattr(clock, "now", 105.0))
            result = verify(seen + await read(events))
            assert result.error is None
            assert [one.finish_reason for one in result.completions] == ["timeout"] * 2
            assert all(one.token_ids for one in result.completions)

    asyncio.run(main())


def test_steps_do_not_look_at_those_who_wait(qwen2: Path) -> None:
    looked: list[object] = []

    class Watched:
        """In the place of a waiting request's mailbox."""

        @property
        def unread(self) -> bool:
            looked.append(self)
            return True

    async def main() -> None:
        async with serving(qwen2, max_pending=1) as engine:
            running = engine.generate([5], ENDLESS)
            await anext(running)
            waiting = [asyncio.create_task(read(engine.generate([6], ENDLESS))) for _ in range(5)]
            await until_waiting(engine, 5)

            def swap() -> list[Any]:
                tickets = list(engine.loop.tickets.values())[1:]
                boxes = [ticket.mailbox for ticket in tickets]
                for ticket in tickets:
                    ticket.mailbox = Watched()
                return [*zip(tickets, boxes, strict=True)]

            swapped = await in_thread(engine, swap)
            for _ in range(20):
                await anext(running)
            await in_thread(engine, lambda: [setattr(one, "mailbox", box) for one, box in swapped])
            assert not looked
            for task in waiting:
                task.cancel()
            await running.aclose()

    asyncio.run(main())
