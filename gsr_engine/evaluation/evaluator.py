"""One evaluation of a set of problems: draw candidates, vote, refine, grade."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gsr_engine.engine import Engine
from gsr_engine.evaluation.grader import Grader
from gsr_engine.outputs import Completion, RefineResult, Usage
from gsr_engine.params import SamplingParams, SelfRefineParams
from gsr_engine.text.answers import majority


@dataclass(frozen=True, slots=True)
class Exercise:
    """A problem's text, and its gold answer."""

    text: str
    gold: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """A generated solution, the answer found in it (None: it states none), and its grade."""

    completion: Completion
    answer: str | None
    correct: bool


def vote(attempts: Sequence[Attempt]) -> Attempt | None:
    """The first attempt that states the most frequent answer; None if none states an answer."""
    winner = majority(
        [attempt.answer for attempt in attempts], [attempt.correct for attempt in attempts]
    )
    return None if winner is None else attempts[winner]


@dataclass(frozen=True, slots=True)
class Refined:
    """selfRef@k of one exercise.

    Attributes:
        correct: whether the refined answer is right.
        candidates: the candidates that were generated, graded; empty if they were given.
    """

    result: RefineResult
    correct: bool
    candidates: list[Attempt]

    @property
    def num_correct(self) -> int:
        """How many candidates are right."""
        return sum(attempt.correct for attempt in self.candidates)

    @property
    def majority_correct(self) -> bool:
        """Whether the candidates' most frequent answer is right."""
        winner = vote(self.candidates)
        return winner is not None and winner.correct


@dataclass(frozen=True, slots=True)
class RefinedSet:
    """selfRef@k of every exercise, in order; what all of it cost, and the seconds it took."""

    refined: list[Refined]
    usage: Usage
    seconds: float


class Evaluator:
    """Solves a set of exercises with one engine and grades every answer.

    The engine must have no other work meanwhile.
    """

    def __init__(self, engine: Engine, exercises: Sequence[Exercise], grader: Grader) -> None:
        self._engine = engine
        self._exercises = exercises
        self._grader = grader

    def draw(self, params: SamplingParams) -> list[list[Attempt]]:
        """`params.n` direct solutions of each exercise."""
        prompts = [self._engine.direct_prompt(exercise.text) for exercise in self._exercises]
        results = self._engine.generate(prompts, params)
        return [
            self._attempts(exercise, result.completions)
            for exercise, result in zip(self._exercises, results, strict=True)
        ]

    def refine(
        self,
        params: SelfRefineParams,
        candidates: Sequence[Sequence[list[int]]] | None = None,
        on_finished: Callable[[int], object] = lambda _: None,
    ) -> RefinedSet:
        """Refine every exercise.

        Args:
            params: of every exercise; `params.k` counts only if candidates are generated.
            candidates: token ids of each exercise's candidates; None generates them.
            on_finished: called after each step with the number of exercises that it finished.

        Raises:
            InvalidRequest: an exercise cannot be refined; none was then.
        """
        given = candidates if candidates is not None else [None] * len(self._exercises)
        start = time.perf_counter()
        requests = [
            self._engine.new_self_refine(exercise.text, params, candidates=own, index=i)
            for i, (exercise, own) in enumerate(zip(self._exercises, given, strict=True))
        ]
        results = self._engine.run(requests, on_finished)
        seconds, usage = time.perf_counter() - start, Usage()
        for result in results:
            usage.add(result.usage)
        refined = [
            Refined(
                result,
                self._grader.correct(result.answer, exercise.gold),
                self._attempts(exercise, result.candidates) if candidates is None else [],
            )
            for exercise, result in zip(self._exercises, results, strict=True)
        ]
        return RefinedSet(refined, usage, seconds)

    def _attempts(self, exercise: Exercise, completions: Sequence[Completion]) -> list[Attempt]:
        answers = [self._engine.find_answer(completion) for completion in completions]
        return [
            Attempt(completion, answer, self._grader.correct(answer, exercise.gold))
            for completion, answer in zip(completions, answers, strict=True)
        ]
