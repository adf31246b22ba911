"""One question over one connection, byte by byte: a client library would hide a second answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

import h11

from tests.chaos.http.questions import Question

Address = tuple[str, int]
Leave = Literal["stays", "half a body", "at once", "soon", "mid-answer"]
"""When a client goes away."""


class Lost(AssertionError):
    """The connection ended before a whole answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole response."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True, eq=False)
class Connection:
    """A client's connection; `cut` ends it from outside.

    Attributes:
        question: what is asked.
        leave: when the client goes.
        abruptly: whether it goes with a reset.
        slow: whether it reads little by little.
        seconds: after which "soon" is.
    """

    question: Question
    leave: Leave = "stays"
    abruptly: bool = False
    slow: bool = False
    seconds: float = 0.05
    was_cut: bool = False
    _writer: asyncio.StreamWriter | None = None

    def cut(self) -> None:
        """Let the network fail."""
        self.was_cut = True
        if self._writer is not None:
            self._writer.transport.abort()

    async def ask(self, address: Address) -> Answer | None:
        """The answer; None for a client that left.

        Raises:
            Lost: there is none, or half of one.
            AssertionError: there is more than one.
            OSError: the server is not there.
        """
        reader, self._writer = await asyncio.open_connection(*address)
        try:
            raw = self.question.raw
            self._writer.write(raw[: -len(raw) // 3] if self.leave == "half a body" else raw)
            await self._writer.drain()
            received = await self._read(reader)
        except OSError:
            if self.was_cut:
                return None
            raise Lost("the connection was reset") from None
        finally:
            if self.abruptly:
                self._writer.transport.abort()
            self._writer.close()
        left = self.leave != "stays" or self.was_cut
        return None if left else parsed(received)

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        if self.leave in ("half a body", "at once"):
            return b""
        received = bytearray()
        try:
            async with asyncio.timeout(self.seconds if self.leave == "soon" else None):
                while part := await reader.read(100 if self.slow else 1 << 16):
                    received += part
                    if self.leave == "mid-answer":
                        break
                    if self.slow:
                        await asyncio.sleep(0.01)
        except TimeoutError:
            pass
        return bytes(received)


def parsed(received: bytes) -> Answer:
    """The one answer in all that came over a connection.

    Raises:
        Lost: there is none, or half of one.
        AssertionError: something follows it.
    """
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(received)
    response, body = None, b""
    try:
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                raise Lost(f"{event} after {received[-200:]!r}")
    except h11.RemoteProtocolError as error:
        raise Lost(f"{error} after {received[-200:]!r}") from error
    assert response is not None
    more = connection.trailing_data[0]
    assert not more, f"more than one answer: {more[:200]!r}"
    headers = {name.decode(): value.decode() for name, value in response.headers}
    return Answer(response.status_code, headers, body)
