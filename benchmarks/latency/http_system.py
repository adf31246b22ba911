"""A server of OpenAI's API and a way to use it, as a system to measure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from benchmarks.latency.cell import Streams
from benchmarks.latency.chat_client import Chat
from benchmarks.latency.http_methods import Method
from benchmarks.latency.timed_answer import Moments, TimedAnswer
from benchmarks.peers.servers import NotAnswered
from gsr_engine.checkpoint.gsr_config import GsrConfig

_LOOK_SECONDS = 0.5
_TIMEOUT = 3600.0


class Served(Protocol):
    """A server that runs."""

    @property
    def url(self) -> str:
        """Its address, without `v1/`."""
        ...

    async def pages_used(self, client: httpx.AsyncClient) -> float | None:
        """KV pages of 16 tokens: the most so far, or those now; None if it does not tell."""
        ...


class HttpSystem:
    """A server and a way to use it; each cell starts the server anew, if it starts it at all.

    Args:
        server: its name, for tables.
        start: gives the server, which runs as a context manager.
        model: what requests call the model.
        gsr: of the model's checkpoint.
        method: how answers are asked for.
        salted: whether the server knows `cache_salt`, and is not started anew.
        key: for a server that asks for one.
    """

    def __init__(
        self,
        server: str,
        start: Callable[[], AbstractContextManager[Served]],
        model: str,
        gsr: GsrConfig,
        method: Method,
        *,
        salted: bool = False,
        key: str = "",
    ) -> None:
        self.name = f"{server}, {method.name}"
        self._start, self._model, self._gsr = start, model, gsr
        self._method, self._salted = method, salted
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    @asynccontextmanager
    async def open(self, streams: Streams) -> AsyncIterator[HttpAnswerer]:
        """Start the server, and a client of it."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        with self._start() as server:
            async with httpx.AsyncClient(
                base_url=server.url, timeout=_TIMEOUT, limits=limits, headers=self._headers
            ) as client:
                chat = Chat(client, self._model, self._gsr, self._salted)
                answerer = HttpAnswerer(chat, self._method, streams, server)
                looking = asyncio.create_task(answerer.look())
                try:
                    yield answerer
                finally:
                    looking.cancel()


@dataclass(slots=True)
class HttpAnswerer:
    """A server that runs, for one cell."""

    chat: Chat
    method: Method
    streams: Streams
    server: Served
    pages: list[float] = field(default_factory=list)

    async def answer(self, problem: str, seed: int, moments: Moments) -> TimedAnswer:
        """See `Answerer`."""
        try:
            return await self.method.answer(self.chat, self.streams, problem, seed, moments)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            where = self.chat.where
            raise NotAnswered(f"{where}: its stream is not of OpenAI's form: {error!r}") from error

    async def look(self) -> None:
        """Look again and again at how many pages are used, for a server that keeps no peak."""
        while (pages := await self._pages()) is not None:
            self.pages.append(pages)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _pages(self) -> float | None:
        with suppress(httpx.HTTPError):
            return await self.server.pages_used(self.chat.client)
        return None

    async def peak_pages(self) -> int | None:
        """See `Answerer`."""
        if (pages := await self._pages()) is None:
            return None
        return round(max([*self.pages, pages]))
