"""A command shows its log on stderr, and an error of ours takes one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from gsr_engine.errors import GsrError, InvalidRequest
from train.command import log, run_command


@pytest.fixture(autouse=True)
def _logger_as_before() -> Iterator[None]:
    handlers, level, propagate = log.handlers, log.level, log.propagate
    yield
    log.handlers, log.level, log.propagate = handlers, level, propagate


def test_the_log_is_plain_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # set up twice, a line is still written once
        run_command("name", lambda: log.info("%d of 2", 1))
    assert capsys.readouterr().err == "1 of 2\n" * 2


def test_no_other_logger_is_changed(capsys: pytest.CaptureFixture[str]) -> None:
    before = list(logging.getLogger().handlers)
    run_command("name", lambda: logging.getLogger("other").info("not shown"))
    assert logging.getLogger().handlers == before
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InvalidRequest("n", "must be 1"), "name: n: must be 1"),
        (GsrError("no more"), "name: no more"),
        (FileNotFoundError(2, "No such file", "a"), "name: [Errno 2] No such file: 'a'"),
    ],
)
def test_an_error_of_ours_takes_one_line(error: Exception, line: str) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit, match=r"^name: ") as caught:
        run_command("name", fail)
    assert caught.value.code == line


def test_any_other_error_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command("name", lambda: 1 // 0)
