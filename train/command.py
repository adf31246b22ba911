"""What every command does around its own work: it shows the log, and an error takes one line."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

from gsr_engine.errors import GsrError
from train import leave_at_once

log = logging.getLogger("train")
"""Progress of all stages. A program that imports them sees it once it sets up a handler."""


def show_log(prefix: str = "") -> None:
    """Write the log to stderr, as plain lines that begin with `prefix`; no other logger changes."""
    handler = logging.StreamHandler()  # the stderr of now: a second call may find another one
    handler.setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


class Interrupted(GsrError):
    """A signal stopped a command after it saved its work.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def run_command(name: str, command: Callable[[], object]) -> None:
    """Run a command with its log on stderr.

    Raises:
        SystemExit: an error of ours, or of a file, as one line that begins with `name`, status 1;
            or a signal stopped it, status 128 and the signal's number, as shells have it.
    """
    show_log()
    if signal.getsignal(signal.SIGINT) is leave_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command()
    except Interrupted as stopped:
        log.info("%s: %s", name, stopped)
        raise SystemExit(128 + stopped.number) from None
    except (GsrError, OSError) as error:
        raise SystemExit(f"{name}: {error}") from None
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends it now
        log.info("%s: interrupted", name)
        raise SystemExit(128 + signal.SIGINT) from None
