"""Requests and prompts, made from what callers give."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import date

from gsr_engine.checkpoint.chat_template import Message, Variables
from gsr_engine.checkpoint.generation_config import GenerationConfig
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.tokenizer import SpecialTokens, Tokenizer
from gsr_engine.errors import InvalidRequest
from gsr_engine.outputs import Completion
from gsr_engine.params import SamplingParams, SelfRefineParams
from gsr_engine.requests.advice import warn_beyond_context, warn_beyond_evidence
from gsr_engine.requests.generate import GenerateRequest
from gsr_engine.requests.inputs import Inputs
from gsr_engine.requests.limits import Limits
from gsr_engine.requests.self_refine import SelfRefineRequest
from gsr_engine.seeds import derive_seed
from gsr_engine.text.problem_prompts import Problem, ProblemPrompts
from gsr_engine.text.prompts import Prompts


class RequestMaker:
    """Makes the requests of one checkpoint, and reads their solutions; in any thread.

    Attributes:
        tokenizer: the checkpoint's tokenizer.
        gsr: the refinement that the checkpoint was trained for.
        prompts: composes the checkpoint's prompts and reads its solutions.
        limits: the limits that every request is checked against.
        generation: what None in `SamplingParams` stands for.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        gsr: GsrConfig,
        limits: Limits,
        generation: GenerationConfig,
    ) -> None:
        self.tokenizer = tokenizer
        self.gsr = gsr
        self.prompts = Prompts(tokenizer, gsr)
        self.limits = limits
        self.generation = generation
        self._inputs = Inputs(self.prompts, limits)
        self._conversations = Inputs(Prompts(tokenizer, gsr, date.today()), limits)

    def new_generate(
        self,
        prompt: str | list[int],
        params: SamplingParams,
        *,
        index: int = 0,
        first: int = 0,
        special_tokens: SpecialTokens = "parse",
    ) -> GenerateRequest:
        """A request for one prompt: text as it is (no template), or token ids.

        `index` is the prompt's index in the caller's list, so that prompts with one seed draw
        different streams. The request draws streams `first` to `first + n - 1` of its seed: the
        same as these streams of a larger request. Special tokens that a text spells are parsed,
        unless `special_tokens` is "text".

        Raises:
            InvalidRequest: the request cannot be served.
        """
        prompt, params = self._inputs.prompt(prompt, special_tokens), self.generation.fill(params)
        seed = _seed(params.seed, index)
        request = GenerateRequest(prompt, params, seed, self.tokenizer, self.limits, first)
        warn_beyond_context(params, self.limits.max_model_len)
        return request

    def new_self_refine(
        self,
        problem: Problem,
        params: SelfRefineParams,
        *,
        candidates: Sequence[str | list[int]] | None = None,
        index: int = 0,
    ) -> SelfRefineRequest:
        """A request for selfRef@k of one problem; `index` as in `new_generate`.

        A problem is its text, or messages of which the last is the user's and states it.

        With `candidates` (texts or token ids) only the refinement is generated; `params.k` is then
        ignored.

        Raises:
            InvalidRequest: the request cannot be served.
        """
        problem, given = self._inputs.problem(problem), None
        if isinstance(candidates, str):
            raise InvalidRequest("candidates", "must be a list for each problem, got one text")
        if candidates is not None:
            every = list(candidates)
            if not every:
                raise InvalidRequest("candidates", "is empty")
            params = replace(params, k=len(every))
            given = [self._inputs.candidate(candidate) for candidate in every]
        params = replace(
            params,
            candidate=self.candidate_sampling(params.candidate),
            refine=self.generation.fill(params.refine, own=("repetition_penalty",)),
        )
        seed = _seed(params.seed, index)
        request = SelfRefineRequest(problem, params, seed, self.prompts, self.limits, given)
        warn_beyond_evidence(params, self.gsr)
        for drawn in (params.candidate, params.refine):
            warn_beyond_context(drawn, self.limits.max_model_len)
        return request

    def candidate_sampling(self, params: SamplingParams) -> SamplingParams:
        """The sampling of candidates, with numbers for None: see `SelfRefineParams.candidate`."""
        return self.generation.fill(params, own=("temperature", "top_k", "top_p"))

    def chat_prompt(
        self, messages: Sequence[Message], chat_template_kwargs: Variables | None = None
    ) -> list[int]:
        """Token ids of a conversation, with the opening of the assistant's turn.

        They are those of transformers' `apply_chat_template`, but for control tokens that contents
        spell: these stay text. A template that asks for the date gets the day on which this engine
        was made. Problems get a fixed day, so that a seed gives the same tokens on every day.
        """
        return self._conversations.chat(messages, chat_template_kwargs or {})

    def direct_prompt(
        self,
        problem: Problem,
        chat_template_kwargs: Variables | None = None,
        template: str | None = None,
    ) -> list[int]:
        """Token ids of the prompt that the candidates of a problem continue.

        `template` as in `SelfRefineParams`.
        """
        prompts = self.prompts.templated(template).varied(chat_template_kwargs or {})
        return ProblemPrompts(prompts, self._inputs.problem(problem)).direct

    def solution_text(self, completion: Completion) -> str:
        """The text of a solution without its thinking; empty if the thinking never ended."""
        return self.prompts.text_and_answer(completion)[0]

    def find_answer(self, completion: Completion) -> str | None:
        """The final answer that a solution states after its thinking; None if it states none."""
        return self.prompts.text_and_answer(completion)[1]


def _seed(seed: int | None, index: int) -> int:
    return secrets.randbits(63) if seed is None else derive_seed(seed, index)
