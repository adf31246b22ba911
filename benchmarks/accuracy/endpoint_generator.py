"""A server that speaks OpenAI's chat completions as the generator of a run.

It gets each prompt as one user message, in the words of the local prompts, and puts its own chat
template around it. So only the linear layout can be asked for. Candidates are shown as text, whole
after their thinking: without a tokenizer, nothing counts `summary_tokens` of them.

Every solution is a request with a seed of its own, so a run that goes on asks for what is missing
and nothing else. Whether a server repeats a solution for a seed is the server's affair. What a
request does not say, e.g. top_k, is the server's default.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.evaluator import Exercise
from gsr_engine.outputs import TOO_FEW_USABLE
from gsr_engine.params import Layout, SelfRefineParams
from gsr_engine.seeds import derive_seed
from train.command import log
from train.generation.chat_client import ChatClient, Reply, RequestFailed, without_thinking
from train.generation.questions import Question, prompt_text

_DRAW, _ORDER, _REFINE = range(3)
_NO_LOGPROBS = (400, 422)
"""How servers refuse a field."""
Job = Coroutine[Any, Any, tuple[int, Any]]
Shown = tuple[int, str]
"""A solution that is shown: its index, and its text."""


@dataclass(slots=True)
class _Spent:
    """What the requests of one answer took."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    sequential_tokens: int = 0
    computed_tokens: int = 0
    begin: float = field(default_factory=time.perf_counter)

    def add(self, replies: Sequence[Reply], num_prompts: int = 1) -> None:
        """The replies of one round, which were asked for at once; the first are of all its prompts.

        Each prompt is computed once. What the server still had of earlier requests saves nothing
        here: a method would cost less the later it comes.
        """
        self.prompt_tokens += sum(one.num_prompt_tokens for one in replies)
        self.generated_tokens += sum(one.num_tokens for one in replies)
        self.sequential_tokens += max(one.num_tokens for one in replies)
        self.computed_tokens += sum(one.num_prompt_tokens for one in replies[:num_prompts])
        self.computed_tokens += sum(one.num_tokens for one in replies)

    def as_dict(self) -> dict[str, Any]:
        """As fields of an `Answer`; the seconds are those from the first request to the end."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "sequential_tokens": self.sequential_tokens,
            "computed_tokens": self.computed_tokens,
            "seconds": time.perf_counter() - self.begin,
        }


class EndpointGenerator:
    """A server behind `Generator`.

    Log-probabilities are those that the server tells, of a model at temperature 1 if it keeps to
    vLLM's default. A server that refuses to tell any is asked without them.

    Args:
        client: asks the server; for these prompts.
        gsr: the texts around problem and candidates, and how an answer is found.
        problems: what is asked.
        config: how.

    Raises:
        InvalidRequest: the template asks for no form of answer, so none could be graded.
    """

    def __init__(
        self,
        client: ChatClient[tuple[int, Any]],
        gsr: GsrConfig,
        problems: Sequence[Exercise],
        config: AccuracyConfig,
    ) -> None:
        _check_form(gsr)
        self._client = client
        self._gsr = gsr
        self._problems = problems
        self._config = config
        self._on_step: Callable[[], object] = lambda: None
        self._tokens = 0
        self._tells_logprobs = True

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """A server reads text, so it can only be asked in the linear layout."""
        return ("linear",)

    @property
    def tokens_generated(self) -> int:
        """Tokens of finished requests: a server tells the length of an answer at its end."""
        return self._tokens

    def watch(self, on_step: Callable[[], object]) -> None:
        """Call this every moment."""
        self._on_step = on_step

    def settings(self) -> dict[str, Any]:
        """What shapes its solutions on this side."""
        return {
            "template": self._gsr.template.hash,
            "chat_template_kwargs": dict(self._gsr.template.chat_template_kwargs),
            "answer_pattern": self._gsr.answer_pattern,
            "thinking": list(self._client.thinking or ()),
            "summary_tokens": None,
        }

    def refusal(self, index: int, draw: Draw, methods: Sequence[Method]) -> InvalidRequest | None:
        """Why a problem cannot be asked; what the server refuses is known when it is asked."""
        for method in methods:
            if method.layout not in (None, *self.layouts):
                return InvalidRequest("layouts", f"a server cannot be asked in {method.layout}")
            try:
                _check_form(self._gsr_of(method))
            except InvalidRequest as error:
                return error
        if not self._problems[index].text.strip():
            return InvalidRequest("problem", "is empty")
        return None

    def draw_each(self, draw: Draw, indices: Iterable[int]) -> Results[Drawn]:
        """Candidates of some problems."""
        return self._each(self._draw(index, draw) for index in indices)

    def answer_each(
        self,
        method: Method,
        seed: int,
        indices: Iterable[int],
        given: Mapping[int, Sequence[Solution]],
    ) -> Results[Answer]:
        """Answers of some problems by one method."""
        if method.layout is None:
            return self._each(self._greedy(index, method) for index in indices)
        return self._each(self._refine(index, method, seed, given[index]) for index in indices)

    def end_to_end_each(
        self, method: Method, seed: int, indices: Iterable[int]
    ) -> Results[EndToEnd]:
        """Nothing: a server does not tell its cost by phase."""
        yield from ()

    def _each(self, jobs: Iterator[Job]) -> Results[Any]:
        """The results of jobs as they come, some of which run at a time."""
        client = self._client
        try:
            while True:
                while client.num_unfinished < 2 * client.concurrency:
                    if (job := next(jobs, None)) is None:
                        break
                    client.start(job)
                if not client.num_unfinished:
                    return
                finished = client.finished()
                self._on_step()
                yield from finished
        finally:
            client.give_up()

    async def _draw(self, index: int, draw: Draw) -> tuple[int, Drawn]:
        text, spent = self._direct(index), _Spent()
        params = self._config.draw_params(draw)
        seeds = (derive_seed(draw.seed, index, _DRAW, number) for number in range(draw.count))
        try:
            replies = await _together(
                self._ask(text, seed, params.temperature, params.top_p) for seed in seeds
            )
        except RequestFailed as error:
            return index, Drawn(solutions=[], error=str(error))
        spent.add(replies)
        return index, Drawn(
            solutions=[Solution(**_fields(one)) for one in replies],
            prompt_tokens=replies[0].num_prompt_tokens,
            seconds=spent.as_dict()["seconds"],
        )

    async def _greedy(self, index: int, method: Method) -> tuple[int, Answer]:
        spent = _Spent()
        try:
            reply = await self._ask(self._direct(index), self._config.seed, 0.0)
        except RequestFailed as error:
            return index, failed_answer(method, str(error))
        spent.add([reply])
        return index, Answer(method=method.name, **_fields(reply), **spent.as_dict())

    async def _refine(
        self, index: int, method: Method, seed: int, given: Sequence[Solution]
    ) -> tuple[int, Answer]:
        """All rounds of a refinement; every round reads the one before it."""
        params, spent = self._config.refine_params(method, seed), _Spent()
        texts, replies, read = [one.text for one in given], list[Reply](), list[Shown]()
        for number, width in enumerate(params.round_widths):
            shown = self._shown(texts, params)
            if not shown:
                return index, failed_answer(method, f"0 of {len(texts)} {TOO_FEW_USABLE}")
            subsets = params.subset is not None and params.subset < len(shown)
            picks = [
                _pick(shown, params, derive_seed(seed, index, _ORDER, number, prompt))
                for prompt in range(width if subsets else 1)
            ]
            prompts = [self._linear(index, method, pick) for pick in picks]
            try:
                replies = await _together(
                    self._ask(
                        prompts[stream % len(prompts)],
                        derive_seed(seed, index, _REFINE, number, stream),
                        method.temperature,
                    )
                    for stream in range(width)
                )
            except RequestFailed as error:
                return index, failed_answer(method, str(error))
            spent.add(replies, len(prompts))
            texts, read = [one.text for one in replies], picks[0]
        answer = Answer(method=method.name, **_fields(replies[0]), **spent.as_dict())
        answer.used = [one for one, _ in read]
        return index, answer

    async def _ask(
        self, text: str, seed: int, temperature: float | None, top_p: float | None = None
    ) -> Reply:
        fields: dict[str, Any] = {
            "seed": seed >> 32,  # servers differ in range
            "temperature": temperature,
            "top_p": 1.0 if top_p is None else top_p,
            "max_tokens": self._config.max_tokens,
        }
        if variables := dict(self._gsr.template.chat_template_kwargs):
            fields["extra_body"] = {"chat_template_kwargs": variables}
        reply = await self._with_logprobs(text, fields)
        self._tokens += reply.num_tokens
        return reply

    async def _with_logprobs(self, text: str, fields: Mapping[str, Any]) -> Reply:
        """Ask with log-probabilities; without them if that is what the server refuses."""
        if not self._tells_logprobs:
            return await self._client.ask(text, **fields)
        try:
            return await self._client.ask(text, logprobs=True, **fields)
        except RequestFailed as refused:
            if refused.status not in _NO_LOGPROBS:
                raise
            reply = await self._client.ask(text, **fields)
            if self._tells_logprobs:
                log.info("the server tells no log-probabilities: %s", refused)
            self._tells_logprobs = False
            return reply

    def _gsr_of(self, method: Method) -> GsrConfig:
        return self._gsr if method.template is None else self._gsr.with_template(method.template)

    def _direct(self, index: int) -> str:
        return prompt_text(Question("", self._problems[index].text), self._gsr.template)

    def _linear(self, index: int, method: Method, pick: Sequence[Shown]) -> str:
        texts = tuple(text for _, text in pick)
        question = Question("", self._problems[index].text, candidates=texts)
        return prompt_text(question, self._gsr_of(method).template)

    def _shown(self, texts: Sequence[str], params: SelfRefineParams) -> list[Shown]:
        """What is shown of solutions; one without anything after its thinking is left out."""
        tags = None if params.view == "full" else self._client.thinking
        parts = [without_thinking(text, tags) for text in texts]
        return [(number, part.strip()) for number, part in enumerate(parts) if part.strip()]


def _check_form(gsr: GsrConfig) -> None:
    if not gsr.template.answer_form:
        raise InvalidRequest("template", f"{gsr.template.name} states no answer form to grade")


def _pick(shown: Sequence[Shown], params: SelfRefineParams, seed: int) -> list[Shown]:
    """What one prompt shows: some or all of the solutions, in its order."""
    rng, pick = random.Random(seed), list(shown)
    if params.subset is not None and params.subset < len(pick):
        pick = [pick[one] for one in sorted(rng.sample(range(len(pick)), params.subset))]
    if params.order == "shuffled":
        rng.shuffle(pick)
    return pick


async def _together(asked: Iterable[Awaitable[Reply]]) -> list[Reply]:
    """All replies, when the last one is there; or the first error, then.

    A failure for good comes last: beside a server that is gone it may have had the same cause.
    """
    results = await asyncio.gather(*asked, return_exceptions=True)
    errors = [one for one in results if isinstance(one, BaseException)]
    for error in sorted(errors, key=lambda one: isinstance(one, RequestFailed)):
        raise error
    return [one for one in results if isinstance(one, Reply)]


def _fields(reply: Reply) -> dict[str, Any]:
    """A reply as fields of a `Solution`."""
    told = reply.completion.choices[0].logprobs
    logprobs = [one.logprob for one in told.content or []] if told else []
    return {
        "text": reply.text,
        "answer": reply.answer,
        "correct": False,
        "tokens": reply.num_tokens,
        "logprobs": [round(one, DECIMALS) for one in logprobs],
        "finish_reason": reply.finish_reason,
    }
