"""Is the server alive, does it take requests: `/health` and `/ready`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from gsr_engine.serving.async_engine import AsyncEngine


class Health:
    """What a supervisor and a load balancer ask of one engine.

    A server is *alive* while its engine's thread runs and no step takes too long. It is *ready*
    while it is alive and wants requests. On the way to its end it drains first: it is not ready any
    more, but still takes requests of clients that have not heard of it. Then it refuses them.

    Attributes:
        refusing: new requests must be answered with 503.
    """

    def __init__(self, engine: AsyncEngine, step_timeout: float) -> None:
        """Watch an engine, which is stuck once one step runs longer than `step_timeout` seconds."""
        self._engine = engine
        self._step_timeout = step_timeout
        self._draining = False
        self._arriving: set[asyncio.Timeout] = set()
        self.refusing = False

    def drain(self) -> None:
        """Stop being ready; requests are still taken."""
        self._draining = True

    def refuse(self) -> None:
        """Stop taking requests, also those that are still arriving; for the event loop's thread."""
        if not self.refusing:  # afterwards their time is over already
            for limit in self._arriving:
                limit.reschedule(0.0)
        self._draining = self.refusing = True

    @asynccontextmanager
    async def arriving(self) -> AsyncIterator[None]:
        """For what waits for the rest of a request.

        Raises:
            TimeoutError: it waits, and requests are refused.
        """
        async with asyncio.timeout(0.0 if self.refusing else None) as limit:
            self._arriving.add(limit)
            try:
                yield
            finally:
                self._arriving.discard(limit)

    def why_not_alive(self) -> str | None:
        """None while the engine works or is idle; else the reason why it does not."""
        if self._engine.loop.ended.done():
            return "the engine has ended"
        seconds = self._engine.step_seconds()
        if seconds > self._step_timeout:
            return f"one step has run for {seconds:.0f} s, step_timeout is {self._step_timeout:g} s"
        return None

    def why_not_ready(self) -> str | None:
        """None while requests should be sent here; else the reason why they should not."""
        return self.why_not_alive() or ("the server is shutting down" if self._draining else None)


def health_routes(health: Health) -> APIRouter:
    """`/health` for a supervisor, which restarts what is not alive, and `/ready` for routers."""
    router = APIRouter()

    @router.get("/health")
    async def get_health() -> JSONResponse:
        """200 while the engine works or is idle, else 503 with the reason."""
        return _answer(health.why_not_alive())

    @router.get("/ready")
    async def get_ready() -> JSONResponse:
        """200 while requests should be sent here, else 503 with the reason."""
        return _answer(health.why_not_ready())

    return router


def _answer(reason: str | None) -> JSONResponse:
    if reason is None:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "unavailable", "reason": reason}, status_code=503)
