"""`/health` and `/ready`: dead, stuck, idle, draining."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from gsr_engine import AsyncEngine, Engine, EngineClosed, SamplingParams
from gsr_engine.demo.report import NANO
from gsr_engine.serving.http.health import Health, health_routes
from tests.helpers.readers import in_thread, read


class FakeEngine:
    """What health asks of an engine."""

    def __init__(self) -> None:
        self.loop = SimpleNamespace(ended=Future())
        self.seconds = 0.0

    def step_seconds(self) -> float:
        return self.seconds


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def health(engine: FakeEngine) -> Health:
    return Health(cast("Any", engine), step_timeout=300)


def statuses(health: Health) -> tuple[int, int]:
    """Of `/health` and of `/ready`."""
    app = FastAPI()
    app.include_router(health_routes(health))
    with TestClient(app) as client:
        live, ready = client.get("/health"), client.get("/ready")
    for response in (live, ready):
        said = response.json()
        assert (said["status"] == "ok") == (response.status_code == 200) == ("reason" not in said)
    return live.status_code, ready.status_code


def test_an_idle_engine_is_alive_and_ready(health: Health) -> None:
    assert statuses(health) == (200, 200)
    assert health.why_not_ready() is None
    assert not health.refusing


def test_a_step_may_take_its_time_but_not_for_ever(health: Health, engine: FakeEngine) -> None:
    engine.seconds = 299.0
    assert statuses(health) == (200, 200)
    engine.seconds = 301.0
    assert statuses(health) == (503, 503)
    assert "301 s" in str(health.why_not_alive())
    engine.seconds = 0.0  # it ended after all
    assert statuses(health) == (200, 200)


def test_a_dead_engine_is_neither(health: Health, engine: FakeEngine) -> None:
    engine.loop.ended.set_result(None)
    assert statuses(health) == (503, 503)


def test_a_server_that_ends_is_alive_but_not_ready_then_refuses(health: Health) -> None:
    health.drain()
    assert statuses(health) == (200, 503)
    assert not health.refusing
    health.refuse()
    assert statuses(health) == (200, 503)
    assert health.refusing


def test_an_engine_whose_thread_died_is_not_alive() -> None:
    async def main() -> None:
        inner = await asyncio.to_thread(Engine.from_pretrained, NANO, threads=1)
        engine = AsyncEngine(inner)
        health = Health(engine, 300)
        assert health.why_not_alive() is None

        def plan() -> None:
            raise RuntimeError("a bug")

        await in_thread(engine, lambda: setattr(inner.scheduler, "plan", plan))
        with pytest.raises(EngineClosed, match="a bug"):
            await read(engine.generate("1", SamplingParams(max_tokens=1)))
        await asyncio.wrap_future(engine.loop.ended)
        assert health.why_not_alive() is not None
        assert health.why_not_ready() is not None
        await engine.close()

    asyncio.run(main())


def test_requests_may_be_refused_again_while_one_that_arrives_is_told(health: Health) -> None:
    async def refuse_often() -> None:
        async def arrive() -> None:
            async with health.arriving():
                await asyncio.sleep(60)

        early = asyncio.ensure_future(arrive())
        await asyncio.sleep(0)
        late = []
        for _ in range(5):
            health.refuse()
            late.append(asyncio.ensure_future(arrive()))
            await asyncio.sleep(0)
        ends = await asyncio.gather(early, *late, return_exceptions=True)
        assert {type(end) for end in ends} == {TimeoutError}

    asyncio.run(refuse_often())
