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
    ],
)
def test_last_balanced_box(text: str, expected: str | None) -> None:
    assert find_answer(text) == expected


@pytest.mark.parametrize("pattern", [r"((?:a|a)+)$", r"((?:(?:a|b)|(?:b|a))+)\1!(?=c)"])
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
    assert majority([None, None]) is None


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
