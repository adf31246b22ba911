"""Yes-or-no questions for code that may hang: it runs in a process that is killed in time."""

from __future__ import annotations

import logging
import multiprocessing as mp
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from train.signals import shielded

Judgement = Callable[[Any], object]
"""Answers a question; true is yes."""


def _serve(connection: Connection, start: Callable[..., Judgement], args: tuple[Any, ...]) -> None:
    logging.disable()  # what is asked may warn, e.g. of time limits, which are the asker's task
    judge = start(*args)
    while True:
        question = connection.recv()
        try:
            connection.send(bool(judge(question)))
        except Exception:  # what cannot be judged is not right
            connection.send(False)


class Judge:
    """Asks a worker process. `close` it to end the worker.

    Args:
        start: called once in each worker, a function of a module; what it returns is asked.
        args: of `start`.
        timeout: seconds for one question, then the worker is killed and the answer is no.
    """

    def __init__(
        self, start: Callable[..., Judgement], args: tuple[Any, ...] = (), timeout: float = 5.0
    ) -> None:
        self._start, self._args, self._timeout = start, args, timeout
        self._worker: mp.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def ask(self, question: Any) -> bool:
        """No if it takes too long. A worker that died is replaced once and asked again."""
        for _ in range(2):
            try:
                return self._ask(question)
            except (EOFError, OSError):
                self.close()
        return False

    def _ask(self, question: Any) -> bool:
        fresh = self._connection is None
        if self._connection is None:
            context = mp.get_context("spawn")
            self._connection, theirs = context.Pipe()
            worker = context.Process(
                target=_serve, args=(theirs, self._start, self._args), daemon=True
            )
            # A signal to the whole group is for who asks: what is drawn is still to be graded.
            with shielded(signal.SIGINT, signal.SIGTERM):
                worker.start()
            self._worker = worker
            theirs.close()
        self._connection.send(question)
        # A fresh worker first imports what it needs.
        if self._connection.poll(self._timeout + (60.0 if fresh else 0.0)):
            return bool(self._connection.recv())
        self.close()
        return False

    def close(self) -> None:
        """Kill the worker."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.join(timeout=10)
        self._worker = self._connection = None
