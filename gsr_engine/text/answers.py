"""Final answers: find them in a solution, compare them, vote over them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from fractions import Fraction

import regex

_TAIL = 4000
"""Only this many last characters are searched: a pattern may be slow, so its input is bounded."""

PATTERN_SECONDS = 0.25
"""How long a checkpoint's pattern may search one text. Nested repeats take time that is exponential
in the text, and an answer is searched between two steps of the engine. It is the processor's time
of all threads, so it leaves far more than the millisecond that a usual pattern takes."""

_BOXED = "\\boxed{"


def find_answer(text: str, pattern: str | None = None) -> str | None:
    r"""The final answer of a solution, None if it states none.

    With a pattern it is the first group of the last match, else the content of the last balanced
    `\boxed{...}`. Only the last 4,000 characters are searched. A pattern that takes too long finds
    nothing, with a warning that names it.
    """
    text = text[-_TAIL:]
    if pattern is not None:
        return _last_match(pattern, text)
    start = text.rfind(_BOXED)
    while start >= 0:
        content = _balanced(text, start + len(_BOXED))
        if content is not None:
            return content.strip()
        start = text.rfind(_BOXED, 0, start)
    return None


def _last_match(pattern: str, text: str) -> str | None:
    """The first group of the last match."""
    # Python's own `re` has no limit of time, and holds up all threads while it searches.
    search = regex.finditer(pattern, text, timeout=PATTERN_SECONDS, concurrent=True)
    found: str | None = None
    try:
        for match in search:
            found = match.group(1)
    except TimeoutError:
        warnings.warn(
            f"answer_pattern {pattern!r} was given up after {PATTERN_SECONDS} s on a text of "
            f"{len(text)} characters: that solution has no answer",
            stacklevel=3,
        )
        return None
    return found


def _balanced(text: str, start: int) -> str | None:
    """The text from `start` up to the brace that closes one opened before it; None if none does."""
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
    r"""One spelling for equal short answers.

    Spaces, dollar signs and spacing commands are dropped. Plain numbers and fractions are reduced:
    `\dfrac{2}{4}`, `0.5` and `1/2` become the same text. All other text stays.
    """
    for old, new in _RENAMED:
        answer = answer.replace(old, new)
    answer = _DROPPED.sub("", answer).rstrip(".")
    number = _FRACTION.sub(r"\1\2/\3", answer) if _FRACTION.fullmatch(answer) else answer
    try:
        # No exponents, and a bounded length: the digits of 1e999999999 would fill the memory.
        if len(number) <= _LONGEST_NUMBER and re.fullmatch(r"[-+\d./,]+", number):
            return str(Fraction(_THOUSANDS.sub("", number)))
    except (ValueError, ZeroDivisionError):
        pass
    return answer


def same_answer(left: str | None, right: str | None) -> bool:
    """Whether two answers are equal after `normalise`; None equals nothing, not even None."""
    return left is not None and right is not None and normalise(left) == normalise(right)


def majority(answers: Sequence[str | None]) -> int | None:
    """Index of the first answer of the largest group of equal answers; None if all are None.

    On a tie the group that appeared first wins, so the result depends only on the order.
    """
    groups: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        if answer is not None:
            groups.setdefault(normalise(answer), []).append(index)
    return max(groups.values(), key=len)[0] if groups else None
