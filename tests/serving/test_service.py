"""The socket of a server."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gsr_engine.serving.http.service import bind


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_is_written_is_sent_at_once(host: str) -> None:
    """Nagle's algorithm would hold the first event of a stream back behind the headers."""

    async def connect() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def on_client(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(on_client, sock=bind(host, 0)) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            writer.close()
            return await accepted

    assert asyncio.run(connect())
