"""Final answers: find them in a solution, compare them, vote over them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence

import regex

from gsr_engine.text.answer_forms import same_form
from gsr_engine.text.answer_parser import parse_answer
from gsr_engine.text.knights import mentions_roles, parse_roles, stated_roles

_TAIL = 4000
"""Only this many last characters are searched: a pattern may be slow, so its input is bounded."""

PATTERN_SECONDS = 0.25
"""How long a checkpoint's pattern may search one text. Nested repeats take time that is exponential
in the text, and an answer is searched between two steps of the engine. It is the processor's time
of all threads, so it leaves far more than the millisecond that a usual pattern takes."""

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
_SIMPLE_BOX = re.compile(_BOX.pattern + r"\{([^{}]*)\}")
_BARE = re.compile(
    r"-?\d[\d,./]*(?=\s+[A-Za-z]{2})|[^\s${}][^\n$]*?(?=\.?\s*(?:\$|\n|\\[)\]]|$)|[.,;]\s)"
)
_STATED = re.compile(
    r"(?:\banswer(?:\s+is|:)(?:\s*:)?|^####)\s*(?=(?P<answer>[^\s][^\n]*))",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r"\.(?:\s|$)")
_LONGEST_STATED = 200
_NOTHING = re.compile(r"(?:\s|~|\\[,;:! ]|\\quad|\\text\{\s*\}|\$|\{\}|[.?])*")


def find_answer(text: str, pattern: str | None = None) -> str | None:
    r"""The final answer of a solution, None if it states none.

    With a pattern it is the first group of the last match. Else it is the last box that is closed
    and not empty: `\boxed{...}`, `\boxed 5`, `\fbox{...}`. Without a box it is what "the answer is"
    or "####" introduces, or who is a knight and who is a knave. Only the last 4,000 characters are
    searched. A pattern that takes too long finds nothing, with a warning that names it.
    """
    text = text[-_TAIL:]
    if pattern is not None:
        found = _last_match(pattern, text)
    else:
        found = _boxed(text)
        found = _all_roles(text, found) or found or _stated(text)
    return None if found is None or _NOTHING.fullmatch(found) else found.strip()


def _boxed(text: str) -> str | None:
    """The content of the last outer box that holds something, without boxes inside of it."""
    closing = _closing_braces(text)
    found: str | None = None
    end = 0
    for box in _BOX.finditer(text):
        start = box.end()
        if box.start() < end:
            continue
        if text[start : start + 1] == "{":
            if start not in closing:
                continue
            end = closing[start]
            content = text[start + 1 : end]
        elif bare := _BARE.match(text, start):
            content, end = bare[0].rstrip(".,;"), bare.end()
        else:
            continue
        content = _without_boxes(content)
        if not _NOTHING.fullmatch(content):
            found = content
    return found


def _without_boxes(text: str) -> str:
    while text != (text := _SIMPLE_BOX.sub(r"\1", text)):
        pass
    return _BOX.sub("", text)


def _all_roles(text: str, found: str | None) -> str | None:
    """Who is a knight and who is a knave, where the box states only some of it or there is none."""
    boxed = parse_roles(found) if found is not None and mentions_roles(found) else None
    if found is not None and (not mentions_roles(found) or (boxed and len(_BOX.findall(text)) < 2)):
        return None
    stated = stated_roles(_without_boxes(text))
    whole = stated is not None and (boxed is None or boxed < (parse_roles(stated) or boxed))
    return stated if whole else None


def _closing_braces(text: str) -> dict[int, int]:
    """The closing brace of every opening one that has one; escaped braces are letters."""
    opened: list[int] = []
    closing = {}
    for brace in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closing[opened.pop()] = brace.start()
    return closing


def _stated(text: str) -> str | None:
    """What follows the last "the answer is", up to the end of its sentence."""
    found = [one["answer"] for one in _STATED.finditer(text)]
    if not found:
        return None
    answer = found[-1].strip().strip("*").strip()
    quoted = re.match(r"\$+([^$]+)\$+|\\[(\[](.+?)\\[)\]]", answer)
    if quoted:
        return quoted[1] or quoted[2]
    answer = _SENTENCE_END.split(answer)[0].rstrip("*. ")
    return answer if answer and len(answer) <= _LONGEST_STATED else None


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


def same_answer(left: str | None, right: str | None) -> bool:
    """Whether two answers state the same (see `answer_forms`); None and "" equal nothing."""
    if left is None or right is None or not left.strip() or not right.strip():
        return False
    return same_form(parse_answer(left), parse_answer(right))


class Votes:
    """Counts answers; equal ones vote together.

    An answer joins the first group whose first answer it equals, so each is compared once with
    every group.

    Args:
        same: the equality.

    Attributes:
        groups: indices of equal answers; groups, and the indices in each, in the order counted.
    """

    def __init__(self, same: Callable[[str, str], bool] = same_answer) -> None:
        self._same = same
        self.groups: list[list[int]] = []
        self._first: list[str] = []
        self._known: dict[str, int] = {}

    def add(self, index: int, answer: str | None) -> None:
        """Count one answer; None and "" are no vote."""
        if answer is None or not answer.strip():
            return
        if answer not in self._known:
            groups = range(len(self._first))
            found = next((g for g in groups if self._same(answer, self._first[g])), None)
            if found is None:
                found = len(self._first)
                self._first.append(answer)
                self.groups.append([])
            self._known[answer] = found
        self.groups[self._known[answer]].append(index)

    def largest(self) -> list[int]:
        """Indices of the largest group, the one that appeared first on a tie; [] without votes."""
        return max(self.groups, key=lambda group: (len(group), -group[0]), default=[])


def group_answers(
    answers: Sequence[str | None], right: Sequence[bool | None] | None = None
) -> Votes:
    """Equal answers, counted together.

    Args:
        answers: "" counts as None.
        right: their grades, if they are graded. Right answers equal the gold one, so they vote
            together, and never with a wrong one.
    """
    grades = right if right is not None else [None] * len(answers)
    grade_of = dict(zip(answers, grades, strict=True))

    def same(left: str, other: str) -> bool:
        one, two = grade_of[left], grade_of[other]
        if one is None or two is None or not (one or two):
            return same_answer(left, other)
        return one == two

    votes = Votes(same)
    for index, answer in enumerate(answers):
        votes.add(index, answer)
    return votes


def majority(
    answers: Sequence[str | None], right: Sequence[bool | None] | None = None
) -> int | None:
    """Index of the first answer of the largest group of equal answers; None if all are None.

    On a tie the group that appeared first wins, so the result depends only on the order.

    Args:
        answers: as of `group_answers`.
        right: as of `group_answers`.
    """
    return min(group_answers(answers, right).largest(), default=None)
