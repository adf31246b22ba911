"""Server-sent events: their encoding, comments that keep them alive, and clients that go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Response
from starlette.types import Receive, Scope, Send

from gsr_engine.serving.http.errors import dumps
from gsr_engine.serving.http.guard import ClientGone

T = TypeVar("T")
Events = AsyncGenerator[bytes, None]

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def event(value: object) -> bytes:
    """One event; JSON has no line break of its own."""
    return b"data: " + dumps(value) + b"\n\n"


class EventStream(Response):
    """A response of events that ends as soon as its client goes away.

    It listens for the end of the connection all the time. To notice it by a failed `send` would
    take until the next event, and in the candidates' phase there may be none for long.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: Events, source: AsyncGenerator[Any, None], keep_alive_seconds: float
    ) -> None:
        """Send `events`, which are made of `source`; this is closed even if nothing was sent."""
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._source = events, source
        self._seconds = keep_alive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or end at once."""
        async with aclosing(self._source), aclosing(self._events):
            try:
                await unless_gone(receive, self._send(send))
            except (ClientGone, OSError):
                return

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with aclosing(with_keep_alives(self._events, self._seconds)) as parts:
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def with_keep_alives(events: Events, seconds: float) -> Events:
    """The events, and a comment whenever there was none for so long."""
    waiting = asyncio.ensure_future(_next(events))
    try:
        while True:
            await asyncio.wait((waiting,), timeout=seconds)
            if not waiting.done():
                yield KEEP_ALIVE
                continue
            part = waiting.result()
            if part is None:
                return
            yield part
            waiting = asyncio.ensure_future(_next(events))
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def _next(events: Events) -> bytes | None:
    return await anext(events, None)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do something unless the client goes away meanwhile; then it is cancelled.

    Raises:
        ClientGone: it went away.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
