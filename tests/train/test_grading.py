"""The grader: exact where that decides, math-verify elsewhere, killed when it hangs."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import time
from collections.abc import Iterator

import pytest

from gsr_engine.errors import GsrError
from tests.helpers.answer_pairs import DIFFERENT_PAIRS, EQUAL_PAIRS
from train.grading import SymbolicGrader
from train.judge import Judge, Judgement

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def grader() -> Iterator[SymbolicGrader]:
    with SymbolicGrader(timeout=5.0) as one:
        yield one


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("42", "42", True),
        ("1 + x", "x+1", True),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
        ("x+2", "x+1", False),
        ("109891", "109890", False),
        (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", True),
        (r"\sum_{k=1}^{n} k", r"\frac{n(n-1)}{2}", False),
        (r"(\sum_{k=1}^{3} k, 5 \text{ cm})", "(6, 5)", True),
        (None, "1", False),
        ("1" * 3000, "1", False),
    ],
)
def test_answers(grader: SymbolicGrader, answer: str | None, gold: str, right: bool) -> None:
    assert grader.correct(answer, gold) is right


def test_the_grader_agrees_with_the_table_that_votes(grader: SymbolicGrader) -> None:
    assert [pair for pair in EQUAL_PAIRS if not grader.correct(*pair)] == []
    assert [pair for pair in DIFFERENT_PAIRS if grader.correct(*pair)] == []


def test_a_dead_worker_makes_no_answer_wrong() -> None:
    others = set(mp.active_children())
    with SymbolicGrader() as grader:
        assert grader.correct(r"\sum_{k=1}^{3} k", "6")
        (worker,) = set(mp.active_children()) - others
        assert worker.pid
        os.kill(worker.pid, signal.SIGTERM)  # it is not for the worker
        assert grader.correct(r"\sum_{k=1}^{4} k", "10")
        assert set(mp.active_children()) - others == {worker}
        worker.kill()
        worker.join()
        assert grader.correct(r"\sum_{k=1}^{5} k", "15")


def positive() -> Judgement:
    def judge(number: int) -> bool:
        time.sleep(0.3)
        return number > 0

    return judge


def broken() -> Judgement:
    raise ImportError


def test_an_interrupted_question_is_not_answered_to_the_next_one() -> None:
    judge = Judge(positive)
    assert judge.ask(1)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(KeyboardInterrupt):
        judge.ask(1)
    assert not judge.ask(-1)
    judge.close()


def test_a_worker_that_cannot_begin_says_so() -> None:
    """It would call every answer wrong."""
    with pytest.raises(GsrError, match="the worker of broken does not begin"):
        Judge(broken).ask(1)


def test_a_hang_is_a_wrong_answer_and_the_next_one_is_graded() -> None:
    with SymbolicGrader(timeout=1.0) as grader:
        assert grader.correct(r"\sum_{k=1}^{3} k", "6")
        tower = r"\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}"
        assert not grader.correct(tower, "1 + x^2")
        assert grader.correct(r"\sum_{k=1}^{4} k", "10")


def test_math_verify_says_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with SymbolicGrader() as grader:
        assert grader.correct(r"\sum_{k=1}^{3} k", "6")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("answer", "gold"), [("1 2", "12"), ("52_8 + 1", "53"), ("4210_5", "4210"), ("ABC", "CBA")]
)
def test_what_math_verify_would_mistake_is_not_asked(
    grader: SymbolicGrader, answer: str, gold: str
) -> None:
    assert not grader.correct(answer, gold)
    assert not grader.correct(gold, answer)
