"""What every command does around its own work: it shows the log, and an error takes one line."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gsr_engine.errors import GsrError

log = logging.getLogger("train")
"""Progress of all stages. A program that imports them sees it once it sets up a handler."""


def show_log(prefix: str = "") -> None:
    """Write the log to stderr, as plain lines that begin with `prefix`; no other logger changes."""
    handler = logging.StreamHandler()  # the stderr of now: a second call may find another one
    handler.setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def run_command(name: str, command: Callable[[], object]) -> None:
    """Run a command with its log on stderr.

    Raises:
        SystemExit: an error of ours, or of a file, as one line that begins with `name`; status 1.
    """
    show_log()
    try:
        command()
    except (GsrError, OSError) as error:
        raise SystemExit(f"{name}: {error}") from None
