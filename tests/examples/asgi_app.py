"""selfRef@k inside somebody else's server: an ASGI application without a framework.

    POST /refine    {"problem": "…", "k": 4, "seed": 7, "max_tokens": 300}

answers with server-sent events, one per event of the engine. A client that hangs up frees
what its request held. Any ASGI server runs it, for example
`uvicorn --http h11 tests.examples.asgi_app:app`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from gsr_engine import (
    AsyncEngine,
    EngineClosed,
    Event,
    Final,
    GsrError,
    InvalidRequest,
    QueueFull,
    RefineResult,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.demo.report import NANO

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY = 1 << 20
STATUS = {QueueFull: 503, EngineClosed: 503, InvalidRequest: 400}


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """The application: its engine lives as long as the server's lifespan, in its state."""
    if scope["type"] == "lifespan":
        await lifespan(scope["state"], receive, send)
    elif scope["type"] == "http" and (scope["method"], scope["path"]) == ("POST", "/refine"):
        await refine(scope["state"]["engine"], receive, send)
    elif scope["type"] == "http":
        await respond(send, 404, "try POST /refine")


async def lifespan(state: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """Load the engine at startup, let running requests finish at shutdown."""
    await receive()
    engine = await asyncio.to_thread(AsyncEngine.from_pretrained, NANO, max_pending=32)
    async with engine:
        state["engine"] = engine
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await engine.drain()
    await send({"type": "lifespan.shutdown.complete"})


async def refine(engine: AsyncEngine, receive: Receive, send: Send) -> None:
    """Stream one request until it is finished or the client is gone."""
    try:
        problem, params = parse(await read_body(receive))
        async with aclosing(engine.self_refine(problem, params, wait=False)) as events:
            first = await anext(events)  # a request that cannot be served raises here
            await send({"type": "http.response.start", "status": 200, "headers": SSE})
            await send_event(send, first)
            await until_gone(receive, forward(events, send))
    except GsrError as error:
        await respond(send, STATUS.get(type(error), 500), str(error))


async def forward(events: AsyncIterator[Event[RefineResult]], send: Send) -> None:
    """Every event to the client. Where `send` waits for the network, the engine coalesces."""
    try:
        async for event in events:
            await send_event(send, event)
    except GsrError as error:  # too late for a status
        await send_text(send, "Error", {"error": str(error)})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do something until it is done or the client hangs up."""
    tasks = [asyncio.create_task(work), asyncio.create_task(hung_up(receive))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def hung_up(receive: Receive) -> None:
    """Wait for the end of the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_body(receive: Receive) -> bytes:
    """The request's body."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            raise InvalidRequest("body", f"is longer than {MAX_BODY} bytes")
    return body


def parse(body: bytes) -> tuple[str, SelfRefineParams]:
    """The problem and its parameters; the engine checks their values."""
    try:
        fields = json.loads(body)
        problem, max_tokens = fields["problem"], fields.get("max_tokens")
        k, seed = fields.get("k", 4), fields.get("seed")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest("body", f"must be a JSON object with a problem: {error!r}") from None
    return problem, SelfRefineParams(
        k=k,
        seed=seed,
        candidate=SamplingParams(max_tokens=max_tokens),
        refine=SamplingParams(temperature=0.0, max_tokens=max_tokens),
    )


SSE = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


async def send_event(send: Send, event: Event[RefineResult]) -> None:
    """An event of the engine: its type by name, its fields as JSON."""
    fields = asdict(event)
    if isinstance(event, Final):
        result = event.result
        fields = {"text": result.text, "answer": result.answer, "error": result.error}
    await send_text(send, type(event).__name__, fields)


async def send_text(send: Send, name: str, fields: dict[str, Any]) -> None:
    """One server-sent event."""
    text = f"event: {name}\ndata: {json.dumps(fields)}\n\n"
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def respond(send: Send, status: int, error: str) -> None:
    """A response that is no stream."""
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
