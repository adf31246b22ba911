"""What the commands say on stderr besides results, and what Ctrl-C means while they run."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from gsr_engine.cli import INTERRUPTED, options


def note(text: str) -> None:
    """A line about the run."""
    _show_status("")
    print(f"note: {options.with_flags(text)}", file=sys.stderr)


@contextmanager
def loading(model: str) -> Iterator[None]:
    """In here a terminal shows that the model is being loaded."""
    _show_status(f"loading {model} …")
    try:
        yield
    finally:
        _show_status("")


def _show_status(text: str) -> None:
    """Show a line that the next one replaces; nothing where there is no terminal.

    While rich draws a line of its own, it stands behind `sys.stderr` and clears that line itself.
    """
    terminal = sys.__stderr__
    if terminal is not None and terminal is sys.stderr and terminal.isatty():
        terminal.write(f"\r\x1b[2K{text}")
        terminal.flush()


class _NoteHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


@contextmanager
def notes() -> Iterator[None]:
    """In here warnings, and what is logged while an engine is made, are notes: a line each."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        note(str(message))

    logs = [logging.getLogger(name) for name in ("gsr_engine.engine", "csrc_triton")]
    handler, levels = _NoteHandler(), [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.INFO)
        log.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.removeHandler(handler)
            log.setLevel(level)


@contextmanager
def interrupts_raise() -> Iterator[None]:
    """In here Ctrl-C is KeyboardInterrupt; before and after, it ends the process at once."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted() -> typer.Exit:
    """The end of the command after Ctrl-C, to be raised."""
    print("gsr: interrupted", file=sys.stderr)
    return typer.Exit(INTERRUPTED)
