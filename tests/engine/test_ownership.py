"""One thread at a time uses an engine: others are refused, and what runs is not disturbed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gsr_engine import (
    AsyncEngine,
    Engine,
    EngineBusy,
    EngineClosed,
    SamplingParams,
    SelfRefineParams,
)
from tests.helpers.readers import PARAMS, read, same, verify

pytestmark = pytest.mark.slow

SHORT = SamplingParams(max_tokens=2, ignore_eos=True)
SAMPLING = SamplingParams(n=2, seed=3, max_tokens=8, ignore_eos=True)


@pytest.fixture
def engine(qwen2: Path) -> Iterator[Engine]:
    with Engine.from_pretrained(qwen2) as one:
        yield one


def calls(engine: Engine, folder: Path) -> list[Callable[[], object]]:
    """Every call that a second thread may not make."""
    request = engine.new_generate([7], SAMPLING)  # making one is allowed
    return [
        lambda: engine.submit(request),
        engine.step,
        lambda: engine.abort(request),
        lambda: engine.run([request]),
        lambda: engine.generate([[5]], SAMPLING),
        lambda: engine.self_refine(["1+1"], PARAMS),
        lambda: engine.self_refine(["1+1"], PARAMS, refiner=engine),
        lambda: engine.reload_weights(folder),
        engine.close,
    ]


def refused_everywhere(engine: Engine, folder: Path) -> bool:
    def refused(call: Callable[[], object]) -> bool:
        with pytest.raises(EngineBusy, match="one thread at a time; AsyncEngine"):
            call()
        return True

    return all(map(refused, calls(engine, folder)))


def test_a_second_thread_is_refused_during_a_step_and_during_a_run(
    engine: Engine, qwen2: Path
) -> None:
    expected = engine.generate([[5, 6]], SAMPLING)[0]
    in_step, go, seen = threading.Event(), threading.Event(), []
    plan = engine.scheduler.plan

    def slow() -> Any:
        in_step.set()
        assert go.wait(60)
        return plan()

    with ThreadPoolExecutor(1) as other:
        engine.scheduler.plan = slow  # type: ignore[method-assign]
        request = engine.new_generate([5, 6], SAMPLING)
        engine.submit(request)
        stepping = other.submit(engine.step)
        assert in_step.wait(60)
        seen.append(refused_everywhere(engine, qwen2))
        go.set()
        stepping.result()
        while engine.has_work:  # between two steps the engine is free
            engine.step()
        assert same(request.result, expected)

        def between(_: int) -> None:
            if len(seen) < 3:
                seen.append(other.submit(refused_everywhere, engine, qwen2).result())

        request = engine.new_generate([5, 6], SAMPLING)
        assert same(engine.run([request], between)[0], expected)
    assert seen == [True] * 3
    engine.check()


def test_two_engines_that_refine_are_both_owned(engine: Engine, qwen2: Path) -> None:
    params = SelfRefineParams(k=1, candidate=SHORT, refine=SHORT)
    seen = []
    with Engine.from_pretrained(qwen2) as refiner, ThreadPoolExecutor(1) as other:
        plan = refiner.scheduler.plan

        def planning() -> Any:
            for one in (engine, refiner):
                seen.append(other.submit(refused_everywhere, one, qwen2).result())
            return plan()

        refiner.scheduler.plan = planning  # type: ignore[method-assign]
        assert engine.self_refine(["1+1"], params, refiner=refiner)[0].error is None
    assert all(seen)


def test_the_engine_is_free_after_an_error_and_in_another_thread_later(engine: Engine) -> None:
    def fail(_: int) -> None:
        raise RuntimeError("a callback")

    with pytest.raises(RuntimeError, match="a callback"):
        engine.run([engine.new_generate([5], SAMPLING)], fail)
    expected = engine.generate([[5]], SAMPLING)
    with ThreadPoolExecutor(1) as other:
        assert same(other.submit(engine.generate, [[5]], SAMPLING).result()[0], expected[0])


def test_a_callback_may_use_the_engine(engine: Engine) -> None:
    """Also run other requests to their end; both calls give what they give alone."""
    expected = [engine.generate([[one]], SAMPLING)[0] for one in (5, 6)]
    inner: list[Any] = []

    def nested(_: int) -> None:
        if not inner:
            inner.append(None)
            inner.extend(engine.generate([[6]], SAMPLING))

    (outer,) = engine.run([engine.new_generate([5], SAMPLING)], nested)
    assert same(outer, expected[0])
    assert same(inner[1], expected[1])
    engine.check()


def test_the_host_may_not_use_the_engine_of_an_async_engine(qwen2: Path) -> None:
    async def main() -> None:
        inner = Engine.from_pretrained(qwen2)
        async with AsyncEngine(inner) as engine:
            running = asyncio.create_task(read(engine.self_refine("1+1", PARAMS)))
            await engine.stats()  # the thread has begun
            assert refused_everywhere(inner, qwen2)
            assert verify(await running).refinement
        inner.close()
        for call in (lambda: inner.generate([[5]]), inner.step):
            with pytest.raises(EngineClosed):
                call()

    asyncio.run(main())


def test_closing_twice(engine: Engine, qwen2: Path) -> None:
    request = engine.new_generate([5], SAMPLING)
    left = engine.new_generate([5], SAMPLING)
    engine.submit(left)
    engine.close()
    engine.close()
    for call in (
        lambda: engine.submit(request),
        engine.step,
        lambda: engine.generate([[5]]),
        lambda: engine.self_refine(["1+1"]),
        lambda: engine.reload_weights(qwen2),
    ):
        with pytest.raises(EngineClosed, match="the engine is closed"):
            call()
    assert not left.finished
    engine.abort(left)
    assert left.finished
    engine.check()
