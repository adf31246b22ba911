"""nano behind HTTP, for all tests that need no server of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from gsr_engine import AsyncEngine
from gsr_engine.demo.report import NANO
from gsr_engine.serving import Settings, create_app
from tests.helpers.live_server import live
from tests.helpers.serve_process import Process


@pytest.fixture(scope="session")
def nano() -> Iterator[AsyncEngine]:
    engine = AsyncEngine.from_pretrained(NANO, threads=1, kv_cache_gib=0.05, max_pending=64)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(scope="session")
def address(nano: AsyncEngine) -> Iterator[str]:
    app = create_app(nano, settings=Settings(model_name="nano", max_n=16, max_k=16))
    with live(app) as url:
        yield url


@pytest.fixture(scope="session")
def api(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=120) as client:
        yield client


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts processes that end with the test."""
    started: list[Process] = []

    def start_one(*flags: str, **more: Any) -> Process:
        started.append(Process(*flags, **more))
        return started[-1]

    yield start_one
    for process in started:
        process.child.kill()
        process.status()
