"""One table of answers: what states the same is equal, votes together and is graded right."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.text.answers import find_answer, majority, same_answer
from tests.helpers.answer_pairs import DIFFERENT_PAIRS, EQUAL_PAIRS

OTHER = ["999999", "888888", "777777"]


def by_vote(left: str, right: str) -> bool:
    """Whether two votes for each, among three for others, make one group."""
    return majority([OTHER[0], OTHER[0], left, OTHER[1], OTHER[0], right, left, right]) == 2


def by_grade(left: str, right: str) -> bool:
    return ExactGrader().correct(find_answer(f"So it is $\\boxed{{{left}}}$."), right)


@pytest.mark.parametrize("equal", [same_answer, by_vote, by_grade])
def test_engine_vote_and_grader_agree_on_the_table(equal: Callable[[str, str], bool]) -> None:
    assert len(set(EQUAL_PAIRS)) >= 150
    assert len(set(DIFFERENT_PAIRS)) >= 150
    both_ways = [*EQUAL_PAIRS, *((right, left) for left, right in EQUAL_PAIRS)]
    assert [pair for pair in both_ways if not equal(*pair)] == []
    both_ways = [*DIFFERENT_PAIRS, *((right, left) for left, right in DIFFERENT_PAIRS)]
    assert [pair for pair in both_ways if equal(*pair)] == []


def test_every_answer_equals_itself() -> None:
    answers = {answer for pair in (*EQUAL_PAIRS, *DIFFERENT_PAIRS) for answer in pair}
    assert [answer for answer in answers if not same_answer(answer, answer)] == []
