"""What holds for every route: the key, the longest body, errors in OpenAI's form, request ids."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.types import Message, Receive

from gsr_engine.serving.http.errors import Problem, problem_of, shutting_down
from gsr_engine.serving.http.state import Server

_LONGEST_ID = 128
CLOSED = 499
"""The status of a response that nobody reads, because its client is gone (nginx's number)."""


class ClientGone(Exception):
    """The client closed the connection."""


def guarded_router(server: Server) -> APIRouter:
    """A router for routes that need a key, if the server has keys; their description says so."""
    described = [Security(HTTPBearer(auto_error=False))] if server.keys else []
    return APIRouter(route_class=_route_class(server, needs_key=True), dependencies=described)


def open_router(server: Server) -> APIRouter:
    """A router for routes that are open to everybody, or check the key themselves."""
    return APIRouter(route_class=_route_class(server, needs_key=False))


def _route_class(server: Server, *, needs_key: bool) -> type[APIRoute]:
    class Route(APIRoute):
        """A route of this server; it works in any app, because it brings its own handlers."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    if needs_key:
                        check_key(server, request)
                    response = await handle(await _with_body(request, server))
                except ClientGone:
                    response = Response(status_code=CLOSED)
                except Exception as error:
                    response = problem_of(error).response()
                response.headers["x-request-id"] = request_id(request)
                return response

            return answer

    return Route


def check_key(server: Server, request: Request) -> None:
    """Raise Problem 401 unless the server has no keys, or the request brings one of them."""
    if server.keys is None or server.keys.salt(request.headers.get("authorization")) is not None:
        return
    raise Problem(401, "give a valid API key: Authorization: Bearer KEY", code="invalid_api_key")


def cache_salt(server: Server, request: Request, asked: str | None) -> str:
    """What keeps the prefix cache of one key, and of what it asks for, apart from others'."""
    own = server.keys.salt(request.headers.get("authorization")) if server.keys else None
    return " ".join(part for part in (own, asked) if part)


def request_id(request: Request) -> str:
    """The client's `X-Request-ID` if it is short and printable, else a new one; kept for later."""
    state = request.scope.setdefault("state", {})
    if "gsr_request_id" not in state:
        given = request.headers.get("x-request-id", "")
        usable = 0 < len(given) <= _LONGEST_ID and given.isascii() and given.isprintable()
        state["gsr_request_id"] = given if usable else secrets.token_hex(16)
    name: str = state["gsr_request_id"]
    return name


async def _with_body(request: Request, server: Server) -> Request:
    """The same request with its body read, which is never more than the server takes."""
    try:
        async with server.health.arriving():
            body = await _body(request, server.settings.max_body_bytes)
    except TimeoutError:
        raise shutting_down() from None
    return Request(request.scope, _replayed(body, request.receive))


async def _body(request: Request, most: int) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
            raise Problem(413, f"the body has more than {most} bytes", "body")
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, then what follows it."""
    unread = [body]

    async def replay() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return replay
