"""selfRef@k with two engines: one checkpoint writes the candidates, another one refines them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from gsr_engine.checkpoint.chat_template import Variables
from gsr_engine.errors import InvalidRequest
from gsr_engine.outputs import TOO_FEW_USABLE, Completion, RefineResult, Usage
from gsr_engine.params import SamplingParams, SelfRefineParams
from gsr_engine.requests.generate import GenerateRequest
from gsr_engine.requests.request import Request
from gsr_engine.requests.self_refine import SelfRefineRequest
from gsr_engine.text.problem_prompts import Problem


class SteppedEngine(Protocol):
    """The part of an engine's interface that is used here; `gsr_engine.Engine` has it."""

    def new_generate(
        self, prompt: str | list[int], params: SamplingParams, *, index: int = 0
    ) -> GenerateRequest:
        """See `Engine.new_generate`."""

    def new_self_refine(
        self,
        problem: Problem,
        params: SelfRefineParams,
        *,
        candidates: Sequence[str | list[int]] | None = None,
        index: int = 0,
    ) -> SelfRefineRequest:
        """See `Engine.new_self_refine`."""

    def direct_prompt(
        self,
        problem: Problem,
        chat_template_kwargs: Variables | None = None,
        template: str | None = None,
    ) -> list[int]:
        """See `Engine.direct_prompt`."""

    def candidate_sampling(self, params: SamplingParams) -> SamplingParams:
        """See `Engine.candidate_sampling`."""

    def solution_text(self, completion: Completion) -> str:
        """See `Engine.solution_text`."""

    def submit(self, request: Request[Any]) -> None:
        """See `Engine.submit`."""

    def step(self) -> list[Request[Any]]:
        """See `Engine.step`."""

    def abort(self, request: Request[Any]) -> None:
        """See `Engine.abort`."""


class RefineElsewhere:
    """Steps two engines side by side; a problem is refined as soon as its own candidates are done.

    Candidates pass as text, because the refiner may have another tokenizer. The text is the
    summary, or all of the candidate if `params.view` is "full". A candidate without such text is
    left out.

    Raises:
        InvalidRequest: one of the engines cannot serve a problem or its parameters.
    """

    def __init__(
        self,
        writer: SteppedEngine,
        refiner: SteppedEngine,
        every: Sequence[tuple[Problem, SelfRefineParams]],
    ) -> None:
        self._writer, self._refiner = writer, refiner
        self._every = list(every)
        self._written: list[GenerateRequest] = []
        self._params: list[SelfRefineParams] = []  # with numbers for None
        for index, (problem, params) in enumerate(self._every):
            _check(params)
            prompt = writer.direct_prompt(problem, params.chat_template_kwargs, params.template)
            candidate = writer.candidate_sampling(params.candidate)
            drawn = replace(candidate, n=params.k, seed=params.seed)
            self._written.append(writer.new_generate(prompt, drawn, index=index))
            # Made to be checked: a bad request must fail now, not once its candidates exist.
            checked = refiner.new_self_refine(problem, params, index=index)
            self._params.append(replace(checked.params, candidate=candidate))
        self._refined: dict[int, SelfRefineRequest] = {}

    def run(self) -> list[RefineResult]:
        """The results, in the order of the problems."""
        writing = dict(enumerate(self._written))
        results: dict[int, RefineResult] = {}
        try:
            for request in self._written:
                self._writer.submit(request)
            while len(results) < len(self._every):
                self._writer.step()
                self._refiner.step()
                for index, request in list(writing.items()):
                    if request.finished:
                        self._pass_on(index, results)
                        del writing[index]
                for index, refining in list(self._refined.items()):
                    if refining.result is not None:
                        results[index] = self._merge(index, refining.result)
                        del self._refined[index]
        except BaseException:  # interrupted: abort, because no caller is left to take the results
            for request in self._written:
                self._writer.abort(request)
            for refining in self._refined.values():
                self._refiner.abort(refining)
            raise
        return [results[index] for index in range(len(self._every))]

    def _pass_on(self, index: int, results: dict[int, RefineResult]) -> None:
        """Submit the candidates of one problem to the refiner, or set its result to an error."""
        problem, params = self._every[index]
        written = self._written[index].result
        if written is None:
            return
        shown = self._shown(index)
        error = written.error
        if len(shown) < params.min_candidates:
            error = error or (
                f"{len(shown)} of {params.k} {TOO_FEW_USABLE}, "
                f"min_candidates is {params.min_candidates}"
            )
        if error:
            results[index] = self._failed(index, error)
            return
        texts = [shown[index] for index in sorted(shown)]
        try:
            refining = self._refiner.new_self_refine(problem, params, candidates=texts, index=index)
            self._refiner.submit(refining)
            self._refined[index] = refining
        except InvalidRequest as reason:  # e.g. too long in the refiner's tokens
            results[index] = self._failed(index, str(reason))

    def _failed(self, index: int, error: str) -> RefineResult:
        return self._merge(index, RefineResult.failed(error, Usage(), self._params[index]))

    def _shown(self, index: int) -> dict[int, str]:
        """The text that is shown of each candidate, by its index; candidates without are absent."""
        written, whole = self._written[index].result, self._every[index][1].view == "full"
        texts: dict[int, str] = {}
        for candidate in written.completions if written else []:
            text = candidate.text if whole else self._writer.solution_text(candidate)
            if text.strip():
                texts[candidate.index] = text
        return texts

    def _merge(self, index: int, refined: RefineResult) -> RefineResult:
        """The refiner's result, with the writer's candidates and its cost added."""
        written = self._written[index].result
        candidates: list[Completion] = written.completions if written else []
        shown = sorted(self._shown(index))
        one_round = len(refined.rounds) == 1
        used = [shown[i] for i in refined.used] if one_round else refined.used
        first = [[[shown[i] for i in each] for each in prompts] for prompts in refined.read[:1]]
        if written is not None:
            refined.usage.add(written.usage)
        params = self._params[index]
        read = [*first, *refined.read[1:]]
        return replace(refined, candidates=candidates, used=used, read=read, params=params)


def _check(params: SelfRefineParams) -> None:
    """Raise InvalidRequest for parameters that need the candidates in the refiner's own loop."""
    for name, asked in (
        ("order", params.order == "as_finished"),
        ("agreement", bool(params.agreement)),
        ("first", bool(params.first)),
        ("candidate_timeout", params.candidate_timeout is not None),
        ("timeout", params.timeout is not None),
    ):
        if asked:
            raise InvalidRequest(name, "is not possible with another engine as the refiner")
