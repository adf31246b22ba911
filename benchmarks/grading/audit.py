"""Answers of runs near the border between right and wrong, for a human to look at."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.grading.verdicts import Verdicts, verdicts_of
from benchmarks.samples.sample import Sample, Solution
from gsr_engine.outputs import CUT
from train.grading import SymbolicGrader
from train.progress import tracked

Reason = Literal["algebra", "disagree", "mentioned", "unfound", "cut"]
REASONS: dict[Reason, str] = {
    "algebra": "right, though the equality without algebra says wrong",
    "disagree": "some graders say right, and some say wrong",
    "mentioned": "wrong, but the gold answer stands in the text",
    "unfound": "no answer was found, but the text ends with a number",
    "cut": "cut before its end",
}
_TAIL = 60
_NUMBER_AT_END = re.compile(r"\d[\d,./]*[^\w\d]*$")


@dataclass(frozen=True, slots=True)
class Graded:
    """An answer of a run, and what the graders say of it.

    Attributes:
        run, id, method: where it stands; candidates are methods here, e.g. "candidate 2".
        right: the verdict of the run itself, by its task's own grader.
    """

    run: str
    id: str
    method: str
    problem: str
    gold: str
    solution: Solution
    verdicts: Verdicts

    @property
    def right(self) -> bool:
        """The run's own verdict."""
        return self.solution.correct

    @property
    def reason(self) -> Reason | None:
        """Why a human should look at it; None if it is a clear case."""
        solution = self.solution
        if solution.finish_reason in CUT:
            return "cut"
        if solution.answer is None:
            return "unfound" if _NUMBER_AT_END.search(solution.text[-_TAIL:]) else None
        if self.right and not self.verdicts["votes"]:
            return "algebra"
        if {self.verdicts["math-verify"], self.verdicts["grader"]} - {None, self.right} or (
            not self.right and (self.verdicts["spelling"] or self.verdicts["number"])
        ):
            return "disagree"
        return "mentioned" if not self.right and _stands(self.gold, solution.text) else None


def _stands(gold: str, text: str) -> bool:
    """Whether a gold stands in a text, and not inside of a longer word or number."""
    return bool(gold) and bool(re.search(rf"(?<![\w.]){re.escape(gold)}(?!\w|\.\d)", text))


def graded_answers(run: str, samples: Sequence[Sample], grader: SymbolicGrader) -> Iterator[Graded]:
    """Every candidate and every answer of a run, with a bar on stderr."""
    for sample in tracked(samples, run, shown=True):
        for method, solution in _solutions(sample):
            verdicts = verdicts_of(solution.answer, sample.gold, grader)
            yield Graded(run, sample.id, method, sample.problem, sample.gold, solution, verdicts)


def _solutions(sample: Sample) -> Iterator[tuple[str, Solution]]:
    for number, candidate in enumerate(sample.candidates):
        yield f"candidate {number}", candidate
    for answer in sample.answers:
        if answer.error is None:
            yield answer.method, answer


def border(answers: Iterable[Graded]) -> dict[Reason, list[Graded]]:
    """The answers to look at, by reason; of equal answers to one gold the first."""
    found: dict[Reason, dict[object, Graded]] = {reason: {} for reason in REASONS}
    for one in answers:
        if (reason := one.reason) is not None:
            stated = one.solution.answer
            same = (one.gold, stated) if stated is not None else (one.id, one.solution.text)
            found[reason].setdefault(same, one)
    return {reason: list(each.values()) for reason, each in found.items()}


def chosen(near: dict[Reason, list[Graded]], count: int) -> list[tuple[Reason, Graded]]:
    """At most `count` of them: from each reason in turn, at random, the same ones every time."""
    mixed = {reason: random.Random(0).sample(each, len(each)) for reason, each in near.items()}
    taken: dict[Reason, list[Graded]] = {reason: [] for reason in near}
    left = count
    while left and any(mixed.values()):
        for reason, each in mixed.items():
            if left and each:
                taken[reason].append(each.pop())
                left -= 1
    return [(reason, one) for reason, each in taken.items() for one in each]
