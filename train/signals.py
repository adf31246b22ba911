"""Signals of commands and of the processes that they start."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from train.command import Interrupted


def interrupt_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does: what was claimed is released."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    signal.signal(signal.SIGTERM, interrupt)


@contextmanager
def resumable() -> Iterator[None]:
    """Around the work of a command that goes on where it was stopped.

    Raises:
        Interrupted: Ctrl-C or SIGTERM stopped it.
    """
    interrupt_on_sigterm()
    try:
        yield
    except KeyboardInterrupt as stopped:
        (number,) = stopped.args or (signal.SIGINT,)
        raise Interrupted(number, "interrupted; the same command goes on") from None


@contextmanager
def shielded(*numbers: signal.Signals) -> Iterator[None]:
    """A process that is started here never sees these signals, from its first instruction on.

    Ctrl-C goes to the whole group. A child that still imports has no handler yet and would print a
    traceback. Only the present thread's mask is changed, which the child inherits.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
