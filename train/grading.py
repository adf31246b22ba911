"""Answers that are mathematics: math-verify is asked where our own equality cannot decide.

The equality is the one that votes (`gsr_engine.text.answers`). It decides numbers, bases, units,
brackets, order and every expression that it can evaluate. Of the rest only pairs of expressions are
left, and these two are asked for, apart from units, names and lists around them.

math-verify may hang in C-level arithmetic on hostile input, where none of its own timeouts reaches
it. So it runs in a worker process, which is killed when it takes too long.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Self

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.grader import ExactGrader, Grader
from gsr_engine.text.answer_forms import same_form
from gsr_engine.text.answer_parser import LONGEST, parse_answer
from train.judge import Judge, Judgement

_UNSAFE = re.compile(r"\d\s+\d|\}\s*\d|\d\s*_|'")
"""Numbers side by side, in a base or with primes: math-verify takes them for one plain number."""


def grader_for(gsr: GsrConfig) -> AbstractContextManager[Grader]:
    r"""The grader of a checkpoint's answers.

    Answers that a pattern of `gsr.json` finds are compared exactly. Others come from `\boxed{}`
    and are mathematics.
    """
    return SymbolicGrader() if gsr.answer_pattern is None else nullcontext(ExactGrader())


def _math_verify() -> Judgement:
    from math_verify import parse, verify  # noqa: PLC0415  # seconds to import, workers only

    def equal(pair: tuple[str, str]) -> object:
        # Both are wrapped alike; the order (gold, answer) matters to verify.
        sides = [parse(f"\\boxed{{{side}}}", parsing_timeout=None) for side in pair]
        return verify(*sides, timeout_seconds=None)

    return equal


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
        self._known: dict[tuple[str, str], bool] = {}
        self._judge = Judge(_math_verify, timeout=timeout)

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
            self._known[pair] = self._judge.ask(pair)
        return self._known[pair]

    def close(self) -> None:
        """Kill the worker."""
        self._judge.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
