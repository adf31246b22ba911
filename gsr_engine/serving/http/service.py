"""A server as a process of its own: it listens, answers signals, and ends with a status."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from gsr_engine.errors import EngineClosed, InvalidRequest
from gsr_engine.serving.async_engine import AsyncEngine
from gsr_engine.serving.http.health import Health

_log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
"""How long the last bytes of answers may take once no request runs any more."""
IDLE_SECONDS = 75
"""How long a connection is kept without a request: longer than clients and proxies keep theirs (5
to 60 s). The side that closes first should be theirs, because a request may be under way."""


class Service:
    """Serves an application until a signal, or until its engine dies.

    SIGTERM ends it in three stages. First it is not ready, but takes requests of clients that have
    not heard of it, for `shutdown_delay` seconds. Then it refuses requests, and those in flight get
    `shutdown_timeout` seconds. What is left is aborted, and its clients are told to try elsewhere.
    SIGINT (Ctrl-C) leaves the first stage out. A second signal ends the process at once.
    """

    def __init__(
        self,
        app: FastAPI,
        engine: AsyncEngine,
        health: Health,
        *,
        shutdown_delay: float,
        shutdown_timeout: float,
    ) -> None:
        self._app, self._engine, self._health = app, engine, health
        self._delay, self._timeout = shutdown_delay, shutdown_timeout
        self._signal: asyncio.Future[int] | None = None

    async def run(self, listener: socket.socket, started: Callable[[], None]) -> int:
        """Listen on a bound socket, call `started`, serve; returns the status for the process.

        It is 0 after a signal, and 1 if the engine died or cannot be closed.
        """
        config = uvicorn.Config(
            self._app,
            # httptools, if it is there, bounds no headers, and tells the request that runs nothing
            # of the end of a connection once another one waits behind it.
            http="h11",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=int(FLUSH_SECONDS),
        )
        server = _Server(config, started)
        loop = asyncio.get_running_loop()
        self._signal = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        serving = loop.create_task(server.serve(sockets=[listener]))
        died = asyncio.wrap_future(self._engine.loop.ended)
        ends: list[asyncio.Future[Any]] = [serving, died, self._signal]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self._signal.done():
            await self._finish_requests(self._signal.result(), died)
        status = 0 if self._signal.done() and not died.done() else 1
        if died.done():
            _log.error("the engine died; the process ends")
        await self._close()
        server.should_exit = True
        await serving
        return status

    def _on_signal(self, number: int) -> None:
        if self._signal is None or self._signal.done():
            _log.warning("a second signal: exit at once")
            logging.shutdown()
            os._exit(128 + number)
        self._signal.set_result(number)

    async def _finish_requests(self, number: int, died: asyncio.Future[None]) -> None:
        """Take no more requests, and let those in flight finish, as far as time allows."""
        self._health.drain()
        if number == signal.SIGTERM:
            _log.info("SIGTERM: requests are still taken for %g s", self._delay)
            await asyncio.wait([died], timeout=self._delay)
        self._health.refuse()
        _log.info("requests are refused; those in flight get %g s", self._timeout)
        try:
            await asyncio.wait_for(self._engine.drain(), self._timeout)
        except TimeoutError:
            _log.warning("shutdown_timeout is over: aborting what is in flight")
        except EngineClosed:
            pass  # it died meanwhile, and its log says why

    async def _close(self) -> None:
        self._health.refuse()
        try:
            await asyncio.wait_for(self._engine.close(), FLUSH_SECONDS)
        except TimeoutError:
            _log.error("the engine's step does not end; the process ends without it")
            logging.shutdown()
            os._exit(1)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `Service`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._on_started()


def bind(host: str, port: int) -> socket.socket:
    """A socket of an address, which does not listen yet.

    Raises:
        InvalidRequest: the address is taken, or is none of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # With its protocol: asyncio turns Nagle's algorithm off for sockets that say they are TCP.
        # Otherwise the first event of a stream waits 40 ms behind the headers.
        listener = socket.socket(*found[0][:3])
        # The connections of a process that just ended would keep the address for a minute.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Its connections get this from it. asyncio does not see that they are TCP's, and a reply of
        # two packets would wait 40 ms between them for the client's delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(found[0][4])
    except OSError as error:
        reason = error.strerror or error
        raise InvalidRequest("port", f"cannot listen on {host}:{port}: {reason}") from None
    return listener
