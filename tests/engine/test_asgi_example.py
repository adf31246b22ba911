"""The engine inside another host program: the test drives the example as an ASGI server does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gsr_engine import AsyncEngine, Engine, SamplingParams, SelfRefineParams
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from tests.examples.asgi_app import app

pytestmark = pytest.mark.slow

PUZZLES = sample_puzzles("test", 1, 3)


class Connection:
    """One client connection: the messages that the application receives and sends."""

    def __init__(self, state: dict[str, Any], path: str, body: bytes) -> None:
        self.scope = {"type": "http", "method": "POST", "path": path, "state": state}
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "http.request", "body": body[:5], "more_body": True})
        self.incoming.put_nowait({"type": "http.request", "body": body[5:], "more_body": False})
        self.sent: list[Any] = []
        self.on_event: Callable[[str], None] = lambda name: None

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and message["body"].startswith(b"event: "):
            self.on_event(message["body"].split()[1].decode())

    async def run(self) -> int:
        await app(self.scope, self.incoming.get, self.send)
        status: int = self.sent[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        parts = [part.split("\n") for part in self.body.decode().split("\n\n") if part]
        return [(name[len("event: ") :], json.loads(data[len("data: ") :])) for name, data in parts]


@asynccontextmanager
async def server() -> AsyncIterator[dict[str, Any]]:
    """The application between startup and shutdown; gives its state."""
    state: dict[str, Any] = {}
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outgoing: asyncio.Queue[Any] = asyncio.Queue()
    scope = {"type": "lifespan", "state": state}
    host = asyncio.create_task(app(scope, incoming.get, outgoing.put))
    incoming.put_nowait({"type": "lifespan.startup"})
    assert (await outgoing.get())["type"] == "lifespan.startup.complete"
    yield state
    incoming.put_nowait({"type": "lifespan.shutdown"})
    assert (await outgoing.get())["type"] == "lifespan.shutdown.complete"
    await host


def request(puzzle: int, **fields: Any) -> bytes:
    return json.dumps({"problem": PUZZLES[puzzle].problem, **fields}).encode()


def test_streams_what_the_engine_gives() -> None:
    async def main() -> list[Connection]:
        async with server() as state:
            clients = [Connection(state, "/refine", request(i, k=3, seed=i)) for i in range(3)]
            assert await asyncio.gather(*(client.run() for client in clients)) == [200] * 3
            return clients

    with Engine.from_pretrained(NANO) as engine:
        for i, client in enumerate(asyncio.run(main())):
            params = SelfRefineParams(k=3, seed=i, refine=SamplingParams(temperature=0.0))
            (expected,) = engine.self_refine([PUZZLES[i].problem], params)
            names = [name for name, _ in client.events]
            assert names[:2] == ["Submitted", "PhaseStarted"]
            assert names.count("CandidateDone") == 3
            assert client.events[-1] == (
                "Final",
                {"text": expected.text, "answer": expected.answer, "error": None},
            )
            refined = [fields["text"] for name, fields in client.events if name == "RefineToken"]
            assert expected.refinement is not None
            assert "".join(refined) == expected.refinement.text
            assert client.sent[-1]["more_body"] is False


def test_a_client_that_hangs_up_frees_what_it_held() -> None:
    async def main() -> None:
        async with server() as state:
            engine: AsyncEngine = state["engine"]
            client = Connection(state, "/refine", request(0))

            def hang_up(name: str) -> None:
                if name == "CandidateToken":
                    client.incoming.put_nowait({"type": "http.disconnect"})

            client.on_event = hang_up
            other = Connection(state, "/refine", request(1))
            assert await asyncio.gather(client.run(), other.run()) == [200, 200]
            assert "Final" not in dict(client.events)
            assert "Final" in dict(other.events)
            stats = await engine.stats()
            assert (stats["requests_running"], stats["pages_used"]) == (0, 0)
            await engine.check()

    asyncio.run(main())


def test_errors_have_a_status() -> None:
    async def answer(state: dict[str, Any], path: str, body: bytes) -> tuple[int, str]:
        client = Connection(state, path, body)
        return await client.run(), json.loads(client.body)["error"]

    async def main() -> None:
        async with server() as state:
            assert (await answer(state, "/", b""))[0] == 404
            for body in (b"no json", b"[1]", b"{}"):
                assert (await answer(state, "/refine", body))[0] == 400
            status, error = await answer(state, "/refine", request(0, k=0))
            assert (status, error) == (400, "k: must be an integer from 1 to 256, got 0")
            assert (await answer(state, "/refine", b'{"problem": ""}'))[0] == 400
            await state["engine"].drain()
            assert (await answer(state, "/refine", request(0)))[0] == 503

    asyncio.run(main())
