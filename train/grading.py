"""Answers that are mathematics: math-verify is asked where our own equality cannot decide.

The equality is the one that votes (`gsr_engine.text.answers`). It decides numbers, bases, units,
brackets, order and every expression that it can evaluate. Of the rest only pairs of expressions are
left, and these two are asked for, apart from units, names and lists around them.

math-verify may hang in C-level arithmetic on hostile input, where none of its own timeouts reaches
it. So it runs in a worker process, which is killed when it takes too long.
"""

from __future__ import annotations

import logging
import multiprocessing as mp
import re
import signal
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Self

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.grader import ExactGrader, Grader
from gsr_engine.text.answer_forms import same_form
from gsr_engine.text.answer_parser import LONGEST, parse_answer
from train.signals import shielded

_UNSAFE = re.compile(r"\d\s+\d|\}\s*\d|\d\s*_|'")
"""Numbers side by side, in a base or with primes: math-verify takes them for one plain number."""


def grader_for(gsr: GsrConfig) -> AbstractContextManager[Grader]:
    r"""The grader of a checkpoint's answers.

    Answers that a pattern of `gsr.json` finds are compared exactly. Others come from `\boxed{}`
    and are mathematics.
    """
    return SymbolicGrader() if gsr.answer_pattern is None else nullcontext(ExactGrader())


def _serve(connection: Connection) -> None:
    logging.disable()  # math-verify warns of the time limits that are this process's task
    from math_verify import parse, verify  # noqa: PLC0415  # seconds to import, workers only

    while True:
        gold, answer = connection.recv()
        try:
            # Both are wrapped alike; the order (gold, answer) matters to verify.
            sides = [parse(f"\\boxed{{{side}}}", parsing_timeout=None) for side in (gold, answer)]
            connection.send(bool(verify(*sides, timeout_seconds=None)))
        except Exception:  # an answer that sympy cannot read is not a right one
            connection.send(False)


class SymbolicGrader:
    """Asks math-verify where `same_answer` cannot decide; remembers what it asked.

    Use it as a context manager, or `close` it, to end its worker.

    Args:
        timeout: seconds for one comparison, then the worker is killed and the answer is wrong.

    Raises:
        InvalidRequest: math-verify is not installed.
    """

    def __init__(self, timeout: float = 5.0) -> None:
        if find_spec("math_verify") is None:
            raise InvalidRequest("grading", "needs math-verify: pip install 'gsr-engine[train]'")
        self._timeout = timeout
        self._known: dict[tuple[str, str], bool] = {}
        self._worker: mp.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def correct(self, answer: str | None, gold: str) -> bool:
        """Whether an answer is the gold one."""
        if answer is None or len(answer) > LONGEST or not answer.strip() or not gold.strip():
            return False
        return same_form(parse_answer(answer), parse_answer(gold), self._undecided)

    def _undecided(self, answer: str, gold: str) -> bool:
        if _UNSAFE.search(answer) or _UNSAFE.search(gold):
            return False
        return self.asked(answer, gold)

    def asked(self, answer: str, gold: str) -> bool:
        """What math-verify says of two answers, without our own equality."""
        pair = (gold, answer)
        if pair not in self._known:
            self._known[pair] = self._ask(pair)
        return self._known[pair]

    def _ask(self, pair: tuple[str, str]) -> bool:
        """Wrong if it takes too long. A worker that died is replaced once and asked again."""
        for _ in range(2):
            try:
                return self._compare(pair)
            except (EOFError, OSError):
                self.close()
        return False

    def _compare(self, pair: tuple[str, str]) -> bool:
        fresh = self._connection is None
        if self._connection is None:
            context = mp.get_context("spawn")
            self._connection, theirs = context.Pipe()
            worker = context.Process(target=_serve, args=(theirs,), daemon=True)
            # A signal to the whole group is for who asks: what is drawn is still to be graded.
            with shielded(signal.SIGINT, signal.SIGTERM):
                worker.start()
            self._worker = worker
            theirs.close()
        self._connection.send(pair)
        # A fresh worker first imports sympy.
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
