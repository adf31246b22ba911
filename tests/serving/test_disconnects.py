"""A client that goes away frees what its request held, wherever the request is in its life."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from gsr_engine import AsyncEngine
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.serving import Settings, create_app
from tests.helpers.live_server import live, until

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": sample_puzzles("test", 3, 2)[0].problem}]
ENDLESS: dict[str, Any] = {"messages": MESSAGES, "ignore_eos": True}
REFINED = {**ENDLESS, "gsr": {"k": 4, "view": "full"}}


@pytest.fixture(scope="module")
def engine() -> Iterator[AsyncEngine]:
    """One that has room for a single request with its streams at a time."""
    engine = AsyncEngine.from_pretrained(NANO, threads=1, kv_cache_gib=0.05, max_num_seqs=4)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(scope="module")
def url(engine: AsyncEngine) -> Iterator[str]:
    # No keep-alive shall be what notices that a client is gone.
    with live(create_app(engine, settings=Settings(keep_alive_seconds=1000))) as url:
        yield url


def send(url: str, asked: dict[str, Any]) -> socket.socket:
    """Ask, and read nothing."""
    address = urlsplit(url)
    body = json.dumps(asked).encode()
    connection = socket.create_connection((address.hostname or "", address.port or 0))
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def stats(engine: AsyncEngine) -> dict[str, Any]:
    return asyncio.run(engine.stats())


def check_that_all_is_free(engine: AsyncEngine) -> None:
    assert stats(engine)["pages_used"] == 0
    assert not engine.loop.tickets
    asyncio.run(engine.check())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asked", [ENDLESS, REFINED], ids=["plain", "refined"])
def test_while_it_runs(engine: AsyncEngine, url: str, asked: dict[str, Any], stream: bool) -> None:
    before = stats(engine)["completion_tokens"]
    connection = send(url, {**asked, "stream": stream})
    until(lambda: stats(engine)["requests_running"])
    connection.close()
    until(lambda: not stats(engine)["requests_running"])
    # It did not merely end by itself: the context has room for 2,000 tokens.
    streams = 4 if asked is REFINED else 1
    assert stats(engine)["completion_tokens"] - before < 1000 * streams
    check_that_all_is_free(engine)


def test_while_it_waits_in_the_queue(engine: AsyncEngine, url: str) -> None:
    first = send(url, {**REFINED, "stream": True})
    until(lambda: stats(engine)["requests_running"])
    waiting = [send(url, {**REFINED, "stream": stream}) for stream in (False, True)]
    until(lambda: stats(engine)["requests_waiting"] == 2)
    for connection in waiting:
        connection.close()
    until(lambda: not stats(engine)["requests_waiting"])
    assert stats(engine)["requests_running"] == 1
    first.close()
    until(lambda: not stats(engine)["requests_running"])
    check_that_all_is_free(engine)


def test_while_its_body_comes(
    engine: AsyncEngine, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname or "", address.port or 0))
    connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{{".encode())
    connection.close()
    with httpx.Client(base_url=url) as client:
        assert client.get("/health").status_code == 200
    assert not caplog.records  # nobody takes it for a bug
    check_that_all_is_free(engine)


def test_one_of_a_batch_of_prompts(engine: AsyncEngine, url: str) -> None:
    with (
        httpx.Client(base_url=url, timeout=60) as client,
        client.stream(
            "POST",
            "/v1/completions",
            json={
                "prompt": ["a", "b", "c"],
                "max_tokens": 1500,
                "ignore_eos": True,
                "stream": True,
            },
        ) as response,
    ):
        lines = response.iter_lines()  # kept: httpx hangs up when its iterator is collected
        next(lines)
        assert len(engine.loop.tickets) == 3
    until(lambda: not engine.loop.tickets)
    check_that_all_is_free(engine)
