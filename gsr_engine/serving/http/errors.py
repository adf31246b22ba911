"""What went wrong, as OpenAI's error object and its status."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gsr_engine.errors import EngineClosed, GsrError, InvalidRequest, QueueFull

_log = logging.getLogger(__name__)
RETRY_SECONDS = 1
"""What `Retry-After` says with a 503: another replica may answer at once."""

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    503: "unavailable",
}
_LONGEST_NAME = 80
"""Characters of an unknown field's name in an error."""
_TAGS = frozenset({"str", "int", "float", "bool", "constrained-str"})


@dataclass(eq=False)
class Problem(Exception):
    """What a client is told instead of an answer.

    A request's own fault is 4xx: a router would send it to every replica otherwise. 503 is for
    what another replica may answer. 500 is a bug of the server.

    Attributes:
        status: of the response.
        message: for a person.
        param: the field at fault, or None.
        code: for a program, or None.
        kind: OpenAI's `type`; empty for that of the status.
        headers: of the response.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    kind: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = self.kind or _TYPES.get(self.status, "server_error")
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code or kind,
            }
        }

    def response(self) -> Response:
        """The whole response."""
        headers = dict(self.headers)
        if self.status == 503:
            headers["retry-after"] = str(RETRY_SECONDS)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return json_response(self.body(), self.status, headers)


def problem_of(error: Exception) -> Problem:
    """What a client is told of an exception; an unknown one is a bug, which goes to the log.

    Texts of bugs may hold paths and addresses, so they only go to the log.
    """
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return _invalid(error)
        case InvalidRequest():
            return Problem(400, str(error), error.field)
        case QueueFull():
            return Problem(503, "the queue is full", code="queue_full", kind="queue_full")
        case EngineClosed(__cause__=None):
            return Problem(503, "the engine takes no more requests", code="engine_closed")
        case EngineClosed():
            name = type(error.__cause__).__name__
            return Problem(503, f"the engine has ended after {name}", code="engine_closed")
        case GsrError():
            return Problem(503, "the engine cannot take the request")
        case HTTPException():
            # FastAPI's own 400 is for a body that it cannot read: no UTF-8, or too deep.
            param = "body" if error.status_code == 400 else None
            return Problem(error.status_code, str(error.detail), param, headers=error.headers or {})
    _log.error("a request failed", exc_info=error)
    return Problem(500, "an internal error; the server's log has it")


def shutting_down() -> Problem:
    """What a client is told once requests are refused."""
    return Problem(503, "the server is shutting down", code="shutting_down")


def renamed(error: InvalidRequest, field: str) -> InvalidRequest:
    """The same refusal, with the client's name for the field at fault."""
    return InvalidRequest(field, str(error).removeprefix(f"{error.field}: "))


def _invalid(error: RequestValidationError) -> Problem:
    """The field at fault that lies deepest; of one of several types, all that it is not."""
    if isinstance(error.body, bytes):  # FastAPI parses no body of another type
        return Problem(400, "content-type: must be application/json", "content-type")
    found: dict[tuple[str, ...], list[str]] = {}
    for one in error.errors():
        unknown = one["type"] == "extra_forbidden"
        *around, last = one["loc"][1:] or ("",)
        names = tuple(str(part) for part in around if not _is_tag(part))
        if unknown or not _is_tag(last):  # an unknown field may be called like a type
            names = (*names, str(last)[:_LONGEST_NAME])
        message = "is no field of this request" if unknown else _cleaned(str(one["msg"]))
        found.setdefault(names, []).append(message)
    deepest = max(found, key=len)
    param, messages = ".".join(deepest) or "body", found[deepest]
    if "json_invalid" in {one["type"] for one in error.errors()}:
        return Problem(400, f"the body is no JSON: {messages[0]}", "body")
    return Problem(400, f"{param}: {' or '.join(messages)}", param)


def _cleaned(message: str) -> str:
    return message.removeprefix("Value error, ").removeprefix("Input ")


def _is_tag(part: str | int) -> bool:
    """Whether a part of a location is the name of a type among several."""
    return isinstance(part, str) and (part in _TAGS or not part.isidentifier())


_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def dumps(value: object) -> bytes:
    """JSON in UTF-8; what has no UTF-8 (half of a surrogate pair that a client sent) is a `?`.

    It is one line also for clients that end lines where Unicode does (httpx's `iter_lines`).
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_LINE_ENDS).encode(errors="replace")


def json_response(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A response with a JSON body."""
    return Response(dumps(body), status, headers, "application/json")
