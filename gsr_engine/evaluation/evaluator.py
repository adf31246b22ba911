"""One evaluation of a set of problems: draw candidates, vote, refine, grade."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from gsr_engine.engine import Engine
from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.grader import Grader
from gsr_engine.outputs import Completion, GenerateResult, RefineResult, Usage
from gsr_engine.params import SamplingParams, SelfRefineParams
from gsr_engine.requests.generate import GenerateRequest
from gsr_engine.requests.request import Request
from gsr_engine.requests.self_refine import SelfRefineRequest
from gsr_engine.text.answers import majority

ResultT = TypeVar("ResultT")
Given = Sequence[Sequence[str | list[int]]] | Mapping[int, Sequence[str | list[int]]]
"""Candidates by the index of their exercise, as texts or token ids."""


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
class Drawn:
    """The direct solutions of one exercise, and what they cost.

    `error` is the reason if there are none, else None.
    """

    attempts: list[Attempt]
    error: str | None = None
    usage: Usage = field(default_factory=Usage)


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

    The engine must have no other work meanwhile. An exercise draws the same streams whichever of
    the others are solved with it, so a set can be solved in parts.

    Args:
        engine: solves and refines.
        exercises: the whole set.
        grader: compares answers with gold ones.
        on_step: called after every step of `draw_each` and `refine_each`.

    Raises:
        InvalidRequest: the engine's template asks for no form of answer, so none could be graded.
    """

    def __init__(
        self,
        engine: Engine,
        exercises: Sequence[Exercise],
        grader: Grader,
        on_step: Callable[[], object] = lambda: None,
    ) -> None:
        self._engine = engine
        self._check_form(None)
        self._exercises = exercises
        self._grader = grader
        self._on_step = on_step

    def draw(self, params: SamplingParams) -> list[list[Attempt]]:
        """`params.n` direct solutions of each exercise, sampled as candidates are.

        Raises:
            InvalidRequest: an exercise cannot be asked; none was then.
        """
        requests = [self._new_draw(index, params) for index in range(len(self._exercises))]
        results = self._engine.run(requests)
        return [
            self._attempts(exercise, result.completions)
            for exercise, result in zip(self._exercises, results, strict=True)
        ]

    def draw_each(
        self, params: SamplingParams, indices: Iterable[int]
    ) -> Generator[tuple[int, Drawn], None, None]:
        """`params.n` direct solutions of some exercises, each with its index, as they finish.

        An exercise that cannot be asked, or whose request failed, has an error instead. What has
        not finished is aborted when the iterator is closed.
        """

        def refused(error: str) -> GenerateResult:
            return GenerateResult([], [], Usage(), params, error)

        for index, result in self._each(indices, lambda i: self._new_draw(i, params), refused):
            failed = result.error is not None
            kept = [] if failed else self._attempts(self._exercises[index], result.completions)
            yield index, Drawn(kept, result.error, result.usage)

    def refine(
        self,
        params: SelfRefineParams,
        candidates: Given | None = None,
        on_finished: Callable[[int], object] = lambda _: None,
    ) -> RefinedSet:
        """Refine every exercise.

        Args:
            params: of every exercise; `params.k` counts only if candidates are generated.
            candidates: of each exercise by index, as texts or token ids; None generates them.
            on_finished: called after each step with the number of exercises that it finished.

        Raises:
            InvalidRequest: an exercise cannot be refined; none was then.
        """
        start = time.perf_counter()
        requests = [
            self._new_refine(index, params, candidates) for index in range(len(self._exercises))
        ]
        results = self._engine.run(requests, on_finished)
        seconds, usage = time.perf_counter() - start, Usage()
        for result in results:
            usage.add(result.usage)
        refined = [
            self._refined(index, result, candidates is None) for index, result in enumerate(results)
        ]
        return RefinedSet(refined, usage, seconds)

    def refine_each(
        self,
        params: SelfRefineParams,
        indices: Iterable[int],
        candidates: Given | None = None,
    ) -> Generator[tuple[int, Refined], None, None]:
        """As `refine`, of some exercises, each with its index, as they finish.

        The result of an exercise that cannot be refined holds the error, and is wrong. What has not
        finished is aborted when the iterator is closed.
        """

        def refused(error: str) -> RefineResult:
            return RefineResult.failed(error, Usage(), params)

        def new(index: int) -> SelfRefineRequest:
            return self._new_refine(index, params, candidates)

        for index, result in self._each(indices, new, refused):
            yield index, self._refined(index, result, candidates is None)

    def refusal(
        self, index: int, draw: SamplingParams, *refine: SelfRefineParams
    ) -> InvalidRequest | None:
        """Why an exercise cannot be drawn, or refined from generated candidates; None if it can.

        Nothing is submitted.
        """
        try:
            self._new_draw(index, draw)
            for params in refine:
                self._new_refine(index, params, None)
        except InvalidRequest as error:
            return error
        return None

    def _check_form(self, template: str | None) -> None:
        """Raise InvalidRequest if no answer could be graded that this template asks for."""
        asked = self._engine.prompts.templated(template).gsr.template
        if not asked.answer_form:
            raise InvalidRequest("template", f"{asked.name} states no answer form to grade")

    def _new_draw(self, index: int, params: SamplingParams) -> GenerateRequest:
        prompt = self._engine.direct_prompt(self._exercises[index].text)
        sampling = self._engine.candidate_sampling(params)
        return self._engine.new_generate(prompt, sampling, index=index)

    def _new_refine(
        self,
        index: int,
        params: SelfRefineParams,
        candidates: Given | None,
    ) -> SelfRefineRequest:
        given = None if candidates is None else candidates[index]
        text = self._exercises[index].text
        self._check_form(params.template)
        return self._engine.new_self_refine(text, params, candidates=given, index=index)

    def _each(
        self,
        indices: Iterable[int],
        new: Callable[[int], Request[ResultT]],
        refused: Callable[[str], ResultT],
    ) -> Generator[tuple[int, ResultT], None, None]:
        """The result of each request that `new` makes, as they finish."""
        running: dict[int, tuple[int, Request[ResultT]]] = {}
        try:
            for index in indices:
                try:
                    request = new(index)
                except InvalidRequest as error:
                    yield index, refused(str(error))
                    continue
                running[id(request)] = index, request
                self._engine.submit(request)
            while running:
                finished = self._engine.step()
                self._on_step()
                for one in finished:
                    if id(one) not in running:
                        continue  # aborted, and reported by the next step
                    index, request = running.pop(id(one))
                    result = request.result
                    yield index, refused("it was dropped") if result is None else result
        finally:
            for _, request in running.values():
                self._engine.abort(request)

    def _refined(self, index: int, result: RefineResult, generated: bool) -> Refined:
        exercise = self._exercises[index]
        return Refined(
            result,
            self._grader.correct(result.answer, exercise.gold),
            self._attempts(exercise, result.candidates) if generated else [],
        )

    def _attempts(self, exercise: Exercise, completions: Sequence[Completion]) -> list[Attempt]:
        answers = [self._engine.find_answer(completion) for completion in completions]
        return [
            Attempt(completion, answer, self._grader.correct(answer, exercise.gold))
            for completion, answer in zip(completions, answers, strict=True)
        ]
