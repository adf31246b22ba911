"""The log: one line per request, texts only if they are wanted, JSON that machines read."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from gsr_engine.serving.http.request_log import JsonLines, RequestLog


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a handler with `JsonLines` writes of the log."""
    log = logging.getLogger("gsr_engine.requests")
    handler, level = logging.StreamHandler(io.StringIO()), log.level
    handler.setFormatter(JsonLines())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler.stream
    log.removeHandler(handler)
    log.setLevel(level)


def test_texts_are_left_out_unless_they_are_wanted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gsr_engine.requests")
    RequestLog().write({"request_id": "a"}, {"prompt": "my secret"})
    assert caplog.messages == ["request_id=a"]
    RequestLog(text=True).write({"request_id": "a"}, {"prompt": "my secret"})
    assert caplog.messages[1] == 'request_id=a prompt="my secret"'


def test_a_client_cannot_forge_a_line_or_a_field(
    caplog: pytest.LogCaptureFixture, lines: io.StringIO
) -> None:
    caplog.set_level(logging.INFO, "gsr_engine.requests")
    hostile = "x\nrequest_id=y outcome=ok \x1b[2K\u2028"
    RequestLog().write({"request_id": hostile, "session_id": 'a"b', "outcome": "error"}, {})
    (message,) = caplog.messages
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert message.count(" outcome=error") == 1
    (line,) = lines.getvalue().splitlines()
    assert json.loads(line)["request_id"] == hostile


def test_a_line_for_machines_has_every_field_that_is_known(lines: io.StringIO) -> None:
    RequestLog().write(
        {"request_id": "a", "session_id": None, "seconds": 1.23456789, "hints": {"x": "1"}}, {}
    )
    said = json.loads(lines.getvalue())
    assert {"time", "level", "logger", "request_id", "seconds", "hints"} == set(said)
    assert said["time"].endswith("+00:00")
    assert (said["level"], said["seconds"], said["hints"]) == ("info", 1.234568, {"x": "1"})


def test_other_records_are_lines_for_machines_too(lines: io.StringIO) -> None:
    try:
        raise ValueError("bad")
    except ValueError:
        logging.getLogger("gsr_engine.requests").exception("it failed: %s", "why")
    (line,) = lines.getvalue().splitlines()
    said = json.loads(line)
    assert said["message"] == "it failed: why"
    assert said["exception"].endswith("ValueError: bad")
