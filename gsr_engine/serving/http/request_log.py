"""One line of the log for every finished request."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_log = logging.getLogger("gsr_engine.requests")


class RequestLog:
    """Writes to the logger `gsr_engine.requests` (INFO); a host decides where that goes.

    A line is `name=value` pairs. The record has the same values as a dict in `record.gsr`, for a
    handler that writes JSON. Texts of prompts and replies are left out unless `text` is True.
    """

    def __init__(self, text: bool = False) -> None:
        self.text = text

    def write(self, fields: Mapping[str, Any], texts: Mapping[str, Any]) -> None:
        """Write one line: the fields that are not None, and texts if they are wanted."""
        shown = {**fields, **(texts if self.text else {})}
        values = {name: _short(value) for name, value in shown.items() if value is not None}
        line = " ".join(f"{name}={_spelled(value)}" for name, value in values.items())
        _log.info("%s", line, extra={"gsr": values})


def _short(value: object) -> object:
    """Seconds to the microsecond; anything else as it is."""
    return round(value, 6) if isinstance(value, float) else value


def _spelled(value: object) -> str:
    """A value without spaces or line breaks of its own as it is; any other as JSON.

    So a client that chooses an id cannot forge a line.
    """
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and value.isascii() and value.isprintable() and " " not in value:
        return value
    return json.dumps(value)


class JsonLines(logging.Formatter):
    """Every record of any logger as one JSON object in a line; that of a request has its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The object: when, how bad, who, and what."""
        fields: dict[str, Any] | None = getattr(record, "gsr", None)
        if fields is None:
            fields = {"message": record.getMessage()}
        if record.exc_info:
            fields = {**fields, "exception": self.formatException(record.exc_info)}
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {"time": when, "level": record.levelname.lower(), "logger": record.name}
        return json.dumps({**head, **fields}, default=str)
