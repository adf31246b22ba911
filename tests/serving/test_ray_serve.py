"""Two replicas on Ray Serve, one of them killed under load: only what was on it is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray
from fastapi import FastAPI
from ray import serve

from tests.examples.ray_serve import deployment, replica
from tests.helpers.serve_process import free_port

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(not Path("/proc").exists(), reason="replicas are found in /proc"),
]

ROOT = Path(__file__).parents[2]
LONG = {"prompt": "12*34", "max_tokens": 1500, "ignore_eos": True, "temperature": 1.0}
RETRYABLE = {408, 409, 429, *range(500, 600)}
"""What OpenAI's client sends again by itself."""


class Tagged:
    """Tells in a header which process answers."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def tell(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-pid", str(os.getpid()).encode())]
            await send(message)

        await self._app(scope, receive, tell)


def tagged_replica() -> FastAPI:
    app = replica()
    app.add_middleware(Tagged)
    return app


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of the example's deployment, with replicas that tell who they are."""
    port = free_port()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        configure_logging=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        tagged = deployment.options(
            func_or_class=serve.ingress(tagged_replica)(), ray_actor_options={"num_cpus": 0}
        )
        serve.run(tagged.bind(), name="gsr")
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
    finally:
        ray.shutdown()


def replicas() -> set[int]:
    """The processes of the replicas of this test."""
    mine = psutil.Process().children(recursive=True)
    return {one.pid for one in mine if "ServeReplica" in " ".join(one.cmdline())}


async def ask(client: httpx.AsyncClient, started: list[int]) -> tuple[int | None, str]:
    """Stream one answer: who wrote it, and how it ended: `done`, `cut` or `refused`."""
    pid = None
    try:
        async with client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as got:
            if got.status_code != 200:
                assert got.status_code in RETRYABLE
                return None, "refused"
            pid = int(got.headers["x-pid"])
            started.append(pid)
            last = ""
            async for line in got.aiter_lines():
                last = line or last
        return pid, "done" if last == "data: [DONE]" else "cut"
    except httpx.TransportError:  # the connection broke, which clients retry as well
        return pid, "cut"


async def whole(client: httpx.AsyncClient) -> tuple[int | None, int]:
    """One answer as a whole: who wrote it, and the status."""
    got = await client.post("/v1/completions", json=LONG)
    return (int(got.headers["x-pid"]) if got.status_code == 200 else None), got.status_code


def test_a_replica_dies_and_only_what_was_on_it_is_lost(url: str) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:
            before = replicas()
            assert len(before) == 2
            started: list[int] = []
            streams = [asyncio.create_task(ask(client, started)) for _ in range(8)]
            others = [asyncio.create_task(whole(client)) for _ in range(8)]
            while len(started) < len(streams) or set(started) != before:
                assert not all(task.done() for task in streams), f"only {set(started)} answered"
                await asyncio.sleep(0.05)
            victim = started[0]
            os.kill(victim, signal.SIGKILL)
            ended, answered = await asyncio.gather(*streams), await asyncio.gather(*others)
            for pid, how in ended:
                assert pid in before
                assert how == "done" or pid == victim
            assert any(how == "cut" for _, how in ended)
            assert any(how == "done" for _, how in ended)
            assert all(status == 200 or status in RETRYABLE for _, status in answered)
            assert any(pid == (before - {victim}).pop() for pid, _ in answered)
            for _ in range(8):  # whoever tries again is answered
                assert (await whole(client))[1] == 200

    asyncio.run(main())
