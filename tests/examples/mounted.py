"""Two models inside somebody else's application, in one process.

    uvicorn --http h11 tests.examples.mounted:app

`/llm` is a mounted application with one model, `/draft` a router with another: routes of a host
with a middleware of its own. Each has metrics of its own. The host loads the engines, and closes
them: the lifespan of a mounted application would not run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response

from gsr_engine import AsyncEngine
from gsr_engine.demo.report import NANO
from gsr_engine.serving import Settings, create_app, create_router


def make_app(first: str | Path = NANO, second: str | Path = NANO) -> FastAPI:
    """The host, with a route of its own."""

    @asynccontextmanager
    async def lifespan(host: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as engines:
            # Each engine would take half of the free memory, so each is told its own.
            writer, drafter = [
                await engines.enter_async_context(await load(path)) for path in (first, second)
            ]
            host.mount("/llm", create_app(writer, settings=Settings(model_name="writer")))
            drafts = create_router(drafter, auth="secret", settings=Settings(model_name="drafter"))
            host.include_router(drafts, prefix="/draft")
            yield

    host = FastAPI(lifespan=lifespan)

    @host.get("/hello")
    async def hello() -> dict[str, str]:
        return {"hello": "from the host"}

    @host.middleware("http")
    async def timed(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        began = time.perf_counter()
        response = await call_next(request)
        response.headers["x-host-seconds"] = f"{time.perf_counter() - began:.3f}"
        return response

    return host


async def load(path: str | Path) -> AsyncEngine:
    """Load a model without holding up the event loop."""
    return await asyncio.to_thread(AsyncEngine.from_pretrained, path, threads=1, kv_cache_gib=0.05)


app = make_app()
