"""An engine of this process as the generator of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.generator import (
    DECIMALS,
    Draw,
    Drawn,
    EndToEnd,
    Results,
    failed_answer,
)
from benchmarks.samples.method import Method
from benchmarks.samples.sample import Answer, Solution
from gsr_engine import Completion, Engine, InvalidRequest, RefineResult, SelfRefineParams, Usage
from gsr_engine.evaluation.evaluator import Attempt, Evaluator, Exercise
from gsr_engine.outputs import CUT, Phase
from gsr_engine.params import Layout
from gsr_engine.text.problem_prompts import ProblemPrompts

_DRAW: tuple[Phase, ...] = ("candidate_prefill", "candidate_decode")
_REFINE: tuple[Phase, ...] = ("refine_prefill", "refine_decode")


class EngineGenerator:
    """One engine behind `Generator`, over the engine's own evaluation.

    Args:
        engine: generates; it must have no other work. Without a prefix cache, no result depends on
            what was computed before it.
        problems: what is asked.
        config: how.
        writes: the engine writes the candidates itself. Then it has computed the problem for them,
            and a branched refinement has their KV: the cost of an answer is without both.

    Raises:
        InvalidRequest: the engine's template asks for no form of answer.
    """

    def __init__(
        self,
        engine: Engine,
        problems: Sequence[Exercise],
        config: AccuracyConfig,
        *,
        writes: bool = True,
    ) -> None:
        self._engine = engine
        self._problems = problems
        self._config = config
        self._writes = writes
        self._on_step: Callable[[], object] = lambda: None
        self._evaluator = Evaluator(engine, problems, _Ungraded(), lambda: self._on_step())

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The layouts that the checkpoint claims."""
        return self._engine.gsr.layouts

    @property
    def tokens_generated(self) -> int:
        """Tokens since the engine was made."""
        phases = self._engine.stats()["phases"]
        return sum(
            int(phases[name]["tokens_computed"])
            for name in ("candidate_decode", "refine_decode")
            if name in phases
        )

    def watch(self, on_step: Callable[[], object]) -> None:
        """Call this after every step."""
        self._on_step = on_step

    def settings(self) -> dict[str, Any]:
        """What shapes its solutions beside the weights and the tokenizer."""
        engine, gsr = self._engine, self._engine.gsr
        return {
            "dtype": engine.dtype,
            "quantization": engine.quantization,
            "template": gsr.template.hash,
            "chat_template": _digest(engine.direct_prompt("1 + 1")),
            "thinking": list(engine.tokenizer.thinking or ()),
            "answer_pattern": gsr.answer_pattern,
            "candidate_kv": gsr.candidate_kv,
            "refine_position": gsr.refine_position,
            "max_model_len": engine.limits.max_model_len,
        }

    def refusal(self, index: int, draw: Draw, methods: Sequence[Method]) -> InvalidRequest | None:
        """Why a problem cannot be drawn, or refined by one of the methods; None if it can."""
        params = []
        for method in methods:
            if error := self._unspelled(method):
                return error
            if method.layout is not None:
                params.append(self._config.refine_params(method, draw.seed))
        return self._evaluator.refusal(index, self._config.draw_params(draw), *params)

    def _unspelled(self, method: Method) -> InvalidRequest | None:
        """Why a method's own prompts cannot be written: a small vocabulary drops their words."""
        if method.template is None:
            return None
        tokenizer = self._engine.tokenizer
        text = self._engine.gsr.with_template(method.template).template.linear
        written = tokenizer.decode(tokenizer.encode_text(text))
        if "".join(written.split()).lower() == "".join(text.split()).lower():
            return None
        return InvalidRequest(
            "methods",
            f"{method.name} asks by the prompts {method.template!r}, and the checkpoint's "
            "vocabulary cannot spell them",
        )

    def draw_each(self, draw: Draw, indices: Iterable[int]) -> Results[Drawn]:
        """Candidates of some problems."""
        with closing(self._evaluator.draw_each(self._config.draw_params(draw), indices)) as each:
            for index, drawn in each:
                yield (
                    index,
                    Drawn(
                        solutions=[_solution(one) for one in drawn.attempts],
                        prompt_tokens=drawn.usage.prompt_tokens,
                        seconds=_sum(drawn.usage, _DRAW, "seconds"),
                        error=drawn.error,
                    ),
                )

    def answer_each(
        self,
        method: Method,
        seed: int,
        indices: Iterable[int],
        given: Mapping[int, Sequence[Solution]],
    ) -> Results[Answer]:
        """Answers of some problems by one method."""
        if method.layout is None:
            yield from self._greedy_each(method, indices)
            return
        params = self._config.refine_params(method, seed)
        texts = {
            index: [one.token_ids or one.text for one in solutions]
            for index, solutions in given.items()
        }
        with closing(self._evaluator.refine_each(params, indices, texts)) as each:
            for index, refined in each:
                yield index, self._answer(index, method, params, refined.result, given[index])

    def _greedy_each(self, method: Method, indices: Iterable[int]) -> Results[Answer]:
        with closing(self._evaluator.draw_each(self._config.greedy_params(), indices)) as each:
            for index, drawn in each:
                usage = drawn.usage
                if drawn.error is not None:
                    yield index, failed_answer(method, drawn.error)
                    continue
                (attempt,) = drawn.attempts
                answer = Answer(method=method.name, **vars(_solution(attempt)))
                answer.prompt_tokens = usage.prompt_tokens
                answer.generated_tokens = answer.sequential_tokens = answer.tokens
                answer.computed_tokens = int(_sum(usage, _DRAW, "tokens_computed"))
                answer.seconds = _sum(usage, _DRAW, "seconds")
                yield index, answer

    def end_to_end_each(
        self, method: Method, seed: int, indices: Iterable[int]
    ) -> Results[EndToEnd]:
        """What a refinement of some problems costs, candidates generated."""
        params = self._config.refine_params(method, seed)
        with closing(self._evaluator.refine_each(params, indices)) as each:
            for index, refined in each:
                yield (
                    index,
                    EndToEnd(
                        candidates=[_solution(one) for one in refined.candidates],
                        answer=self._answer(index, method, params, refined.result),
                        phases=refined.result.usage.as_dict(),
                    ),
                )

    def _answer(
        self,
        index: int,
        method: Method,
        params: SelfRefineParams,
        result: RefineResult,
        given: Sequence[Solution] = (),
    ) -> Answer:
        """A refinement as an answer; of its cost what comes after the candidates."""
        drawn = result.refinement
        if drawn is None:
            return failed_answer(method, result.error or "it was not refined")
        reading = _Reading(self._engine, self._problems[index].text, params, result)
        phases = _REFINE if self._writes else (*_DRAW, *_REFINE)
        computed = int(_sum(result.usage, phases, "tokens_computed"))
        if self._writes and method.kind != "mixed":
            computed -= reading.in_place(given)
        return Answer(
            method=method.name,
            **vars(_generated(drawn, result.answer)),
            used=result.used,
            prompt_tokens=reading.prompt_tokens,
            generated_tokens=sum(len(one.token_ids) for each in result.rounds for one in each),
            sequential_tokens=sum(
                max(len(one.token_ids) for one in each) for each in result.rounds
            ),
            computed_tokens=computed,
            seconds=_sum(result.usage, phases, "seconds"),
        )


class _Reading:
    """What a refinement was shown."""

    def __init__(
        self, engine: Engine, problem: str, params: SelfRefineParams, result: RefineResult
    ) -> None:
        self._prompts = engine.prompts.templated(params.template)
        self._problem = problem
        self._params = params
        self._result = result
        whole = params.view == "full"
        self._summaries = {
            index: self._prompts.summary(
                result.candidates[index].content_ids, result.summary_tokens, whole
            )
            # Those that any prompt of the first round showed.
            for index in sorted({index for prompt in result.read[0] for index in prompt})
        }

    @property
    def prompt_tokens(self) -> int:
        """Of all its prompts, candidates included."""
        if len(self._result.rounds) > 1:
            phase = self._result.usage.phase("refine_prefill")
            return phase.tokens_computed + phase.tokens_reused
        problem = ProblemPrompts(self._prompts, self._problem)
        shown = [one.token_ids for one in self._summaries.values() if one is not None]
        if self._params.layout == "linear":
            return len(problem.linear(shown))
        return len(problem.direct) + sum(map(len, shown)) + len(problem.branched_glue)

    def in_place(self, given: Sequence[Solution]) -> int:
        """Tokens of given candidates that were prefilled, and would not be if it had drawn them."""
        if self._params.layout != "branched":
            return 0
        as_generated = self._prompts.gsr.candidate_kv == "as_generated"
        count = 0
        for index, summary in self._summaries.items():
            if index < len(given) and summary is not None and summary.verbatim:
                whole = summary.start == 0 or as_generated
                unwritten = given[index].finish_reason in CUT  # the last token has no KV yet
                count += len(summary.token_ids) - unwritten if whole else 0
        return count


class _Ungraded:
    """Leaves the grades to the run."""

    def correct(self, answer: str | None, gold: str) -> bool:
        """Not yet."""
        return False


def _solution(attempt: Attempt) -> Solution:
    return _generated(attempt.completion, attempt.answer)


def _generated(completion: Completion, answer: str | None) -> Solution:
    return Solution(
        text=completion.text,
        answer=answer,
        correct=False,
        tokens=len(completion.token_ids),
        logprobs=[round(one, DECIMALS) for one in completion.logprobs],
        finish_reason=completion.finish_reason,
        token_ids=completion.content_ids,
    )


def _sum(usage: Usage, phases: Sequence[Phase], name: str) -> float:
    return float(sum(getattr(usage.phases[one], name) for one in phases if one in usage.phases))


def _digest(prompt: list[int]) -> str:
    """What the chat template and the texts around a problem make of it."""
    return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:16]
