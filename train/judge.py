"""Yes-or-no questions for code that may hang: it runs in a process that is killed in time."""

from __future__ import annotations

import logging
import multiprocessing as mp
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from gsr_engine.errors import GsrError
from train.signals import shielded

Judgement = Callable[[Any], object]
"""Answers a question; true is yes."""
_BEGIN = 60.0
"""Seconds that a fresh worker has to import what it needs."""


def _serve(connection: Connection, start: Callable[..., Judgement], args: tuple[Any, ...]) -> None:
    logging.disable()  # what is asked may warn, e.g. of time limits, which are the asker's task
    judge = start(*args)
    connection.send(True)  # it has begun
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
        """No if it takes too long. A worker that died is replaced once and asked again.

        Raises:
            GsrError: no worker begins, so nothing can be judged.
        """
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
            self._await_begin(self._connection)
        try:
            self._connection.send(question)
            # A fresh worker may import what it needs with the first question.
            if self._connection.poll(self._timeout + (_BEGIN if fresh else 0.0)):
                return bool(self._connection.recv())
        except BaseException:
            self.close()  # interrupted: the answer is still to come, and to no later question
            raise
        self.close()
        return False

    def _await_begin(self, connection: Connection) -> None:
        try:
            begun = connection.poll(_BEGIN) and connection.recv()
        except EOFError:  # it died
            begun = False
        if not begun:
            self.close()
            raise GsrError(f"the worker of {self._start.__name__} does not begin")

    def close(self) -> None:
        """Kill the worker."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.join(timeout=10)
        self._worker = self._connection = None
