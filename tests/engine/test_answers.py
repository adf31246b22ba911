"""Final answers: spellings that mislead graders, and the majority vote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsr_engine.text.answers import find_answer, majority, same_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{5} and then \boxed{", "5"),
        (r"x = 12 and then \boxed{", None),
        ("3 apples and 4 pears", None),
        (r"\boxed{ a {b} c }", "a {b} c"),
        (
            r"\boxed{\left\{\begin{array}{l}1\\2\end{array}\right.}",
            r"\left\{\begin{array}{l}1\\2\end{array}\right.",
        ),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed {5}", "5"),
        (r"\boxed 5", "5"),
        (r"$\boxed 42$ as was asked", "42"),
        (r"it is \boxed 42 apples", "42"),
        (r"\boxed\frac12", r"\frac12"),
        (r"\fbox{42}", "42"),
        (r"\framebox{42}", "42"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{x = \boxed{5}}", "x = 5"),
        (r"\boxed{5 \boxed{6}", "6"),
        (r"\boxed{5} so \boxed{}", "5"),
        (r"\boxed{5} so \boxed{\ }", "5"),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxedly 5", None),
        ("The answer is 42.", "42"),
        ("the final answer is: $\\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
        ("The answer is 3.14.", "3.14"),
        ("**Answer:** (C)", "(C)"),
        ("The answer is 1. No, the answer is 2", "2"),
        ("so\n#### 18", "18"),
        (r"The answer is 7, or \boxed{8}", "8"),
        ("So Ann is a knave and Bob is a knight.", "So Ann is a knave and Bob is a knight."),
        ("So:\n1. Ann is a knave.\n2. Bob is a knight.", "Ann is a knave.\nBob is a knight."),
        (r"Ann is a \boxed{knave}, Bob is a \boxed{knight}", "Ann is a knave, Bob is a knight"),
        (r"\boxed{Ann is a knave}, \boxed{Bob is a knight}", "Ann is a knave, Bob is a knight"),
        ("Suppose Ann is a knave. Then Bob would be a knight.", None),
    ],
)
def test_last_balanced_box(text: str, expected: str | None) -> None:
    assert find_answer(text) == expected


@pytest.mark.parametrize("pattern", [r"((?:a|a)+)$", r"((?:\w|\w\w)+)!(?=c)"])
def test_a_pattern_that_takes_too_long_is_given_up_by_name(pattern: str) -> None:
    """It would search until the end of the world; the warning says why there is no answer."""
    with pytest.warns(UserWarning, match=r"answer_pattern .*\(\?:.* was given up after 0.25 s"):
        assert find_answer("ab" * 200 + "a" * 100 + "b!", pattern) is None


def test_pattern() -> None:
    assert find_answer("a=1\nb=22", r"=(\d+)") == "22"
    assert find_answer("nothing", r"=(\d+)") is None


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("0.5", r"\dfrac{1}{2}", True),
        ("1,234", "1234", True),
        ("2516_8", "2516", False),
        (r"\frac{2}{4}", "1/2", True),
        (r"-\frac{1}{2}", "-0.50", True),
        ("(1, 2)", "(1,2)", True),
        ("(1,2)", "(2,1)", False),
        ("x+1", "1+x", True),
        ("5", "-5", False),
        ("1/0", "1/0", True),
        ("9" * 5000, "9" * 5000, True),
        ("1e400000000", "1", False),
    ],
)
def test_same_answer(left: str, right: str, same: bool) -> None:
    assert same_answer(left, right) is same


def test_a_missing_answer_equals_nothing() -> None:
    assert not same_answer(None, None)
    assert not same_answer("", "")
    assert majority([None, None]) is None
    assert majority(["", " ", "5"]) == 2
    assert find_answer("a=", r"a=(\d*)") is None


def test_right_answers_vote_together_and_never_with_wrong_ones() -> None:
    answers = ["7", r"\sum_{k=1}^3 k", "7", "6", "6.0"]
    assert majority(answers) == 0
    assert majority(answers, [False, True, False, True, True]) == 1
    assert majority(["6", "6.0", "7"], [True, False, True]) == 0


@pytest.mark.parametrize(
    "hostile",
    [
        "(" * 900,
        "{" * 900,
        "1," * 900,
        r"\frac" * 300,
        "a " * 900,
        "9^" * 400,
        "-" * 900,
        "|" * 900,
    ],
)
def test_an_answer_that_was_made_to_hurt_is_compared_soon(hostile: str) -> None:
    assert same_answer(hostile, hostile)
    assert not same_answer(hostile, "1")
    assert not same_answer(r"5^{(5^{(5^{(5^5)})}-4)}", r"9^{9^{9^{9}}}")


@given(st.lists(st.one_of(st.none(), st.sampled_from(["1", "1.0", "2", "3"]))))
def test_majority_wins(answers: list[str | None]) -> None:
    winner = majority(answers)
    counts = [sum(same_answer(one, other) for other in answers) for one in answers]
    if winner is None:
        assert set(answers) <= {None}
    else:
        assert counts[winner] == max(counts)


@given(st.text(max_size=200))
def test_any_text_is_safe(text: str) -> None:
    find_answer(text)
    assert same_answer(text, text) is bool(text.strip())
