"""What several graders say of one answer, from the strictest to the one that runs use."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

from gsr_engine.text.answer_forms import Form, Scalar
from gsr_engine.text.answer_parser import parse_answer
from gsr_engine.text.answer_spelling import clean, squeezed
from gsr_engine.text.answers import same_answer
from gsr_engine.text.knights import parse_roles
from train.grading import SymbolicGrader

Name = Literal["spelling", "number", "votes", "math-verify", "grader"]
"""A grader.

spelling: both are spelled alike, spaces and LaTeX's variants apart. number: both are the same
integer or fraction. votes: the equality that votes, without algebra. math-verify: that library
alone. grader: the equality, and math-verify where it cannot decide.
"""
GRADERS: tuple[Name, ...] = ("spelling", "number", "votes", "math-verify", "grader")
APART: tuple[tuple[Name, Name], ...] = (
    ("spelling", "number"),
    ("spelling", "math-verify"),
    ("number", "math-verify"),
    ("votes", "grader"),
)
"""The pairs whose disagreements are counted."""
Verdicts = Mapping[Name, bool | None]
"""Whether an answer is right, by grader; None where a grader was not asked."""


def verdicts_of(answer: str | None, gold: str, grader: SymbolicGrader) -> Verdicts:
    """What all graders say.

    math-verify is not asked about Knights-and-Knaves puzzles: it knows none, and may take seconds.
    """
    text = answer or ""
    return {
        "spelling": squeezed(clean(text)) == squeezed(clean(gold)),
        "number": _same_number(text, gold),
        "votes": same_answer(answer, gold),
        "math-verify": grader.asked(text, gold) if text and parse_roles(gold) is None else None,
        "grader": grader.correct(answer, gold),
    }


def differ(verdicts: Verdicts, one: Name, other: Name) -> bool:
    """Whether two graders were asked, and disagree."""
    return None not in (verdicts[one], verdicts[other]) and verdicts[one] != verdicts[other]


def _same_number(answer: str, gold: str) -> bool:
    left, right = (_number(parse_answer(text)) for text in (answer, gold))
    return left is not None and left == right


def _number(form: Form) -> Fraction | None:
    """The value of an integer or fraction, in whatever way it is written."""
    if not isinstance(form, Scalar) or form.values is None:
        return None
    first, second = form.values  # at two points, so an expression with variables has two
    return first if isinstance(first, Fraction) and first == second else None
