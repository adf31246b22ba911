"""One answer as its client saw it: when its tokens came, how many, and whether it is right."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gsr_engine.evaluation.grader import Grader
from gsr_engine.text.answers import majority


class Moments:
    """When each stream of one answer began and ended; whoever reads the tokens says so.

    A moment is in seconds after the problem arrived. So time that a problem waits for its client
    counts, as its user has it.

    Args:
        k: candidates.
        arrived: when the problem arrived, on the clock of `now`.
        now: the clock.
    """

    def __init__(
        self, k: int, arrived: float, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._arrived, self._now = arrived, now
        self._candidates: list[list[float]] = [[] for _ in range(k)]
        self._refinement: list[float] = []

    def candidate(self, index: int, at: float | None = None) -> None:
        """New tokens of a candidate came, or its end: now, or at a moment of the clock."""
        _note(self._candidates[index], (self._now() if at is None else at) - self._arrived)

    def refinement(self, at: float | None = None) -> None:
        """The same of the refinement."""
        _note(self._refinement, (self._now() if at is None else at) - self._arrived)

    @property
    def missing(self) -> list[str]:
        """The streams of which nothing came."""
        names = [f"candidate {i}" for i, one in enumerate(self._candidates, start=1) if not one]
        return names if self._refinement else [*names, "the refinement"]

    def answer(
        self,
        *,
        candidate_tokens: int,
        refine_tokens: int,
        computed_tokens: int | None,
        candidate_answers: list[str | None],
        answer: str | None,
    ) -> TimedAnswer:
        """What these moments belong to; every stream must have begun."""
        return TimedAnswer(
            firsts=[one[0] for one in self._candidates],
            lasts=[one[-1] for one in self._candidates],
            refined_first=self._refinement[0],
            refined_last=self._refinement[-1],
            candidate_tokens=candidate_tokens,
            refine_tokens=refine_tokens,
            computed_tokens=computed_tokens,
            candidate_answers=candidate_answers,
            answer=answer,
        )


def _note(moments: list[float], moment: float) -> None:
    """Keep the first moment and the last."""
    moments[1:] = [moment]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedAnswer:
    """One answer. Moments are in seconds after the problem arrived.

    Attributes:
        firsts, lasts: of each candidate, when its first tokens came and when it ended.
        refined_first, refined_last: the same of the refinement.
        candidate_tokens: generated, of all candidates together; end tokens count.
        refine_tokens: generated, of the refinement.
        computed_tokens: that went through the model, prompts included; None if the server does
            not tell.
        candidate_answers: what each candidate states; None if it states none.
        answer: what the refinement states.
        candidates_correct: the grades of the candidates; empty if nothing is graded.
        correct: the grade of the refinement; None if it is not graded.
    """

    firsts: list[float]
    lasts: list[float]
    refined_first: float
    refined_last: float
    candidate_tokens: int
    refine_tokens: int
    computed_tokens: int | None = None
    candidate_answers: list[str | None] = field(default_factory=list)
    answer: str | None = None
    candidates_correct: list[bool] = field(default_factory=list)
    correct: bool | None = None

    @property
    def phases(self) -> tuple[float, float, float, float]:
        """Seconds of four phases, which add up to `refined_last`.

        Until the first token of any candidate; until the last candidate ended; until the first
        token of the refinement; until its end.
        """
        ends = (min(self.firsts), max(self.lasts), self.refined_first, self.refined_last)
        waiting, written, read, done = ends
        return waiting, written - waiting, read - written, done - read

    @property
    def candidate_tpot(self) -> float | None:
        """Seconds per token of a candidate after its first one; None if none has a second."""
        more = self.candidate_tokens - len(self.firsts)
        return (sum(self.lasts) - sum(self.firsts)) / more if more > 0 else None

    @property
    def refine_tpot(self) -> float | None:
        """The same of the refinement."""
        more = self.refine_tokens - 1
        return (self.refined_last - self.refined_first) / more if more > 0 else None

    @property
    def majority_correct(self) -> bool:
        """Whether maj@k over the candidates is right; False if nothing is graded."""
        winner = majority(self.candidate_answers, self.candidates_correct or None)
        return winner is not None and bool(self.candidates_correct[winner : winner + 1] == [True])

    def graded(self, grader: Grader, gold: str) -> TimedAnswer:
        """The same with grades."""
        return replace(
            self,
            candidates_correct=[grader.correct(one, gold) for one in self.candidate_answers],
            correct=grader.correct(self.answer, gold),
        )
