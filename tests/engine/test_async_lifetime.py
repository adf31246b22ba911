"""An `AsyncEngine` from start to drain, close or death; its host program is not affected."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from transformers import PreTrainedTokenizerFast

from gsr_engine import (
    AsyncEngine,
    CandidateToken,
    Engine,
    EngineClosed,
    EngineConfig,
    SamplingParams,
    final_result,
)
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.execution.loading import load_parts
from gsr_engine.requests.request import Stream
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


def test_it_is_known_how_long_a_step_has_been_running(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    clock = Mock(return_value=100.0)
    config = EngineConfig()
    inner = Engine(*load_parts(qwen2, config), config, clock=clock)
    step = inner.step

    def slow() -> list[Any]:
        begun.set()
        go.wait()
        return step()

    async def main() -> None:
        async with AsyncEngine(inner) as engine:
            await engine.stats()
            clock.return_value = 200.0
            assert engine.step_seconds() == 0.0, "idle for long"
            monkeypatch.setattr(inner, "step", slow)
            asked = asyncio.create_task(read(engine.generate([5], SamplingParams(max_tokens=2))))
            await asyncio.to_thread(begun.wait)
            clock.return_value = 207.0
            assert engine.step_seconds() == 7.0
            go.set()
            assert verify(await asked).error is None
            assert await in_thread(engine, engine.step_seconds) == 0.0
            monkeypatch.setattr(inner, "step", Mock(side_effect=RuntimeError("burnt")))
            with pytest.raises(EngineClosed, match="burnt"):
                await read(engine.generate([5]))
            assert engine.step_seconds() == 0.0, "its thread died"

    asyncio.run(main())


def test_drain_finishes_what_was_taken_and_takes_no_more(qwen2: Path) -> None:
    async def main() -> None:
        async with serving(qwen2, max_pending=1) as engine:
            running = asyncio.create_task(read(engine.self_refine("1+1", PARAMS)))
            await until_waiting(engine, 0)
            waiting = asyncio.create_task(read(engine.self_refine("2+1", PARAMS)))
            await until_waiting(engine, 1)
            drains = [asyncio.create_task(engine.drain()) for _ in range(2)]
            given_up = asyncio.create_task(engine.drain())
            await engine.stats()
            given_up.cancel()
            with pytest.raises(EngineClosed, match="drained"):
                await anext(engine.generate([5]))
            await asyncio.gather(*drains)
            assert (await engine.stats())["requests_finished"] == 2
            assert verify(await running).refinement
            assert verify(await waiting).refinement
            await engine.drain()  # returns at once, because nothing is left
            assert given_up.cancelled()

    asyncio.run(main())


def test_close_ends_everybody_and_is_final(qwen2: Path) -> None:
    async def main() -> None:
        inner = Engine.from_pretrained(qwen2)
        engine = AsyncEngine(inner, max_pending=1)
        running = engine.generate([5], ENDLESS)
        seen = await read_until(running, CandidateToken)
        waiting = asyncio.create_task(read(engine.self_refine("1+1", PARAMS)))
        await until_waiting(engine, 1)
        draining = asyncio.create_task(engine.drain())
        await engine.stats()
        await asyncio.gather(engine.close(), engine.close())
        await draining
        result = verify(seen + await read(running))
        assert result.completions[0].finish_reason == "abort"
        assert verify(await waiting).candidates == []
        inner.check()
        assert inner.stats()["pages_used"] == 0
        await engine.close()
        for call in (
            engine.stats(),
            engine.check(),
            engine.abort("x"),
            engine.drain(),
            anext(engine.generate([5])),
            anext(engine.self_refine("1+1")),
        ):
            with pytest.raises(EngineClosed, match="the engine is closed"):
                await call
        with pytest.raises(EngineClosed):
            inner.generate([[5]])

    threads = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() == threads


def test_death_of_the_thread_reaches_everybody(qwen2: Path, caplog: Any) -> None:
    async def main() -> None:
        inner = Engine.from_pretrained(qwen2)
        engine = AsyncEngine(inner, max_pending=1)
        running = engine.generate([5], ENDLESS)
        await read_until(running, CandidateToken)
        waiting = asyncio.create_task(read(engine.self_refine("1+1")))
        await until_waiting(engine, 1)
        draining = asyncio.create_task(engine.drain())
        await engine.stats()

        def plan() -> None:
            raise RuntimeError("a bug")

        await in_thread(engine, lambda: setattr(inner.scheduler, "plan", plan))
        for call in (read(running), waiting, draining, engine.stats(), anext(engine.generate([5]))):
            with pytest.raises(EngineClosed, match="died: RuntimeError: a bug") as caught:
                await call
            assert isinstance(caught.value.__cause__, RuntimeError)
        await asyncio.gather(engine.close(), engine.close())
        with pytest.raises(EngineClosed, match="died: RuntimeError: a bug"):
            await anext(engine.generate([5]))  # why it died is not forgotten
        with pytest.raises(EngineClosed):
            inner.step()

    asyncio.run(main())
    assert "the engine's thread died" in caplog.text


def test_a_panic_in_a_call_reaches_its_caller_and_nobody_else(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        """As those of a tokenizer in Rust, which are no `Exception`."""

    def encode(self: Tokenizer, text: str, *_: object) -> list[int]:
        raise Panic("index out of bounds")

    async def main() -> None:
        async with serving(qwen2) as engine:
            with monkeypatch.context() as patch:
                patch.setattr(Tokenizer, "encode_prompt", encode)
                with pytest.raises(Panic, match="out of bounds"):
                    await anext(engine.generate("x"))
            verify(await read(engine.generate([5], SamplingParams(max_tokens=3))))

    asyncio.run(main())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_of_any_kind_in_a_call_is_its_callers(error: Any, qwen2: Path) -> None:
    def work() -> None:
        raise error("mine")

    async def main() -> None:
        async with serving(qwen2) as engine:
            running = asyncio.create_task(read(engine.generate([5], SamplingParams(max_tokens=30))))
            future = engine.loop.call(work)
            while not future.done():
                await asyncio.sleep(0)
            assert isinstance(future.exception(), error)
            verify(await running)

    asyncio.run(main())


@pytest.mark.parametrize("where", ["events", "result"])
def test_a_panic_while_text_is_made_ends_its_request_only(
    where: str, qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        """As those of a tokenizer in Rust."""

    class Panicking:
        """The tokenizer in Rust, which panics at a certain text."""

        def __init__(self, raw: Any) -> None:
            self.raw = raw

        def __getattr__(self, name: str) -> Any:
            return getattr(self.raw, name)

        def __deepcopy__(self, memo: Any) -> Any:
            return deepcopy(self.raw, memo)

        def decode(self, ids: list[int], **options: Any) -> Any:
            # Events decode short windows, results all tokens.
            if ids.count(7) == (1 if where == "events" else 40):
                raise Panic("index out of bounds")
            return self.raw.decode(ids, **options)

    backend: Any = PreTrainedTokenizerFast.backend_tokenizer
    panicking = property(lambda tokenizer: Panicking(backend.fget(tokenizer)))
    monkeypatch.setattr(PreTrainedTokenizerFast, "backend_tokenizer", panicking)
    stop_at = SamplingParams(max_tokens=40, ignore_eos=True)

    async def main() -> None:
        inner = Engine.from_pretrained(qwen2)
        async with AsyncEngine(inner) as engine:
            monkeypatch.setattr(
                "gsr_engine.requests.request.Stream.append", only_sevens(Stream.append)
            )
            other = asyncio.create_task(read(engine.generate([5], stop_at)))
            bad = read(engine.generate([6], SamplingParams(n=1, max_tokens=40, seed=77)))
            if where == "events":
                with pytest.raises(RuntimeError, match="panicked: index out"):
                    await bad
            else:
                assert "panicked: index out of bounds" in verify_final(await bad).error
            verify(await other)
            await assert_idle(engine)

    asyncio.run(main())


def only_sevens(append: Any) -> Any:
    """Streams with seed 77 draw the token 7 only, and others never do."""

    def appending(self: Stream, token: int, logprob: float, top: Any = None) -> None:
        append(self, 7 if self.params.seed == 77 else max(token, 8), logprob, top)

    return appending


def verify_final(events: list[Any]) -> Any:
    return events[-1].result


def test_calls_that_the_dying_thread_has_not_heard(qwen2: Path) -> None:
    """Calls that arrive after the thread last read its commands are answered with an error."""

    async def main() -> None:
        inner = Engine.from_pretrained(qwen2)
        engine = AsyncEngine(inner)
        late: list[Any] = []

        def plan() -> None:
            late.append(engine.loop.call(inner.stats))
            raise RuntimeError("a bug")

        await in_thread(engine, lambda: setattr(inner.scheduler, "plan", plan))
        with pytest.raises(EngineClosed):
            await read(engine.generate([5]))
        with pytest.raises(EngineClosed, match="a bug"):
            await asyncio.wrap_future(late[0])
        await engine.close()

    asyncio.run(main())


def test_an_event_loop_that_is_gone(qwen2: Path) -> None:
    """If an event loop ends without closing its requests, they end; other requests go on."""
    engine = AsyncEngine.from_pretrained(qwen2)
    events = engine.generate([5], ENDLESS)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(read_until(events, CandidateToken))
    waiting = loop.create_task(read(events))
    # The gate stops the engine's thread, and the reader waits, while the loop is closed. Only then
    # does the thread go on.
    gate = threading.Event()
    held = engine.loop.call(gate.wait)
    loop.run_until_complete(_until(lambda: held.running() and _reader_waits(engine)))
    loop.close()
    gate.set()

    async def main() -> None:
        await engine.drain()
        await assert_idle(engine)
        assert (await engine.stats())["completion_tokens"] < 900
        await engine.close()

    asyncio.run(main())
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]
    assert not waiting.done()


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def _reader_waits(engine: AsyncEngine) -> bool:
    (ticket,) = engine.loop.tickets.values()
    return ticket.mailbox.reader_waits


def test_one_engine_in_several_event_loops(qwen2: Path) -> None:
    engine = AsyncEngine.from_pretrained(qwen2)
    results: list[Any] = []

    def host() -> None:
        results.append(asyncio.run(final_result(engine.self_refine("2+1", PARAMS))))

    hosts = [threading.Thread(target=host) for _ in range(3)]
    for thread in hosts:
        thread.start()
    for thread in hosts:
        thread.join()
    host()
    asyncio.run(engine.close())
    assert len(results) == 4
    assert all(same(result, results[0]) for result in results)


def test_it_leaves_its_host_alone(qwen2: Path) -> None:
    """Two engines in one process change no signal handler and no logging, and leave no thread."""
    signals = {one: signal.getsignal(one) for one in signal.valid_signals()}
    root = logging.getLogger()
    before = (list(root.handlers), root.level, threading.active_count())
    seen = []

    async def main() -> list[Any]:
        async with serving(qwen2) as one, serving(qwen2) as other:
            both = [final_result(each.self_refine("2+1", PARAMS)) for each in (one, other)]
            results = await asyncio.gather(*both)
            seen.append({one: signal.getsignal(one) for one in signals})
            return results

    assert same(*asyncio.run(main()))
    assert seen[0][signal.SIGTERM] == signals[signal.SIGTERM]
    assert {one: signal.getsignal(one) for one in signals} == signals
    assert (list(root.handlers), root.level, threading.active_count()) == before
    assert not logging.getLogger("gsr_engine").handlers
