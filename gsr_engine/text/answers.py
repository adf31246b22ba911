"""Final answers: finding them in a solution, comparing them, voting over them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

_TAIL = 4000
"""Characters searched, from the end: patterns run on model output, so their input is bounded."""

_BOXED = "\\boxed{"


def find_answer(text: str, pattern: str | None = None) -> str | None:
    r"""The final answer of a solution, None when it states none.

    With a pattern, the first group of its last match; without, the content of the last balanced
    `\boxed{...}`. Only the last 4,000 characters are searched.
    """
    text = text[-_TAIL:]
    if pattern is not None:
        matches = list(re.finditer(pattern, text))
        return matches[-1].group(1) if matches else None
    start = text.rfind(_BOXED)
    while start >= 0:
        content = _balanced(text, start + len(_BOXED))
        if content is not None:
            return content.strip()
        start = text.rfind(_BOXED, 0, start)
    return None


def _balanced(text: str, start: int) -> str | None:
    depth = 1
    for index in range(start, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if not depth:
            return text[start:index]
    return None


_DROPPED = re.compile(r"\\left|\\right|\\[,;:! ]|\\text\{\s*\}|\$|\s")
_RENAMED = (("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("{,}", ""), ("−", "-"))
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")
_FRACTION = re.compile(r"(-?)\\frac\{(-?\d+)\}\{(-?\d+)\}")
_LONGEST_NUMBER = 100


def normalise(answer: str) -> str:
    r"""A spelling that equal short answers share: no spaces or dollar signs, plain fractions and
    numbers reduced (`\dfrac{2}{4}`, `0.5` and `1/2` are one); anything else as it stands.
    """
    for old, new in _RENAMED:
        answer = answer.replace(old, new)
    answer = _DROPPED.sub("", answer).rstrip(".")
    number = _FRACTION.sub(r"\1\2/\3", answer) if _FRACTION.fullmatch(answer) else answer
    try:
        # Bounded, and no underscores or exponents: 1e999999999 must not become a number.
        if len(number) <= _LONGEST_NUMBER and re.fullmatch(r"[-+\d./,]+", number):
            return str(Fraction(_THOUSANDS.sub("", number)))
    except (ValueError, ZeroDivisionError):
        pass
    return answer


def same_answer(left: str | None, right: str | None) -> bool:
    """Whether two found answers are equal after `normalise`; a missing one equals nothing."""
    return left is not None and right is not None and normalise(left) == normalise(right)


def majority(answers: Sequence[str | None]) -> int | None:
    """Index of the first answer of the largest group of equal ones; None if all are missing.

    On a tie the group that appeared first wins, so the vote depends on nothing but the order.
    """
    groups: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        if answer is not None:
            groups.setdefault(normalise(answer), []).append(index)
    return max(groups.values(), key=len)[0] if groups else None
