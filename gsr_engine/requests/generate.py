"""The plain request: one prompt, n streams."""

from __future__ import annotations

from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.kv.segments import Segment, context_length, pages_for
from gsr_engine.outputs import TIMED_OUT, FinishReason, GenerateResult, Phase
from gsr_engine.params import SamplingParams
from gsr_engine.requests.deadlines import Deadlines
from gsr_engine.requests.limits import Limits
from gsr_engine.requests.prompt_scores import PromptScores
from gsr_engine.requests.request import Group, NewPrompt, Request, Stream, completion
from gsr_engine.seeds import derive_seed
from gsr_engine.text.stopping import StopRule


class GenerateRequest(Request[GenerateResult]):
    """Prefill a prompt once, fork n streams.

    The streams draw as streams `first`, `first + 1`, ... of the seed.

    Attributes:
        prompt: its token ids.
        params: what it was made with, with numbers for None.
        streams: the live streams, once it is admitted. A caller that steps the engine itself can
            read their tokens so far.

    Raises:
        InvalidRequest: the prompt is empty or too long, or the pool is too small; then the error
            names the largest `max_tokens` that fits.
    """

    def __init__(
        self,
        prompt: list[int],
        params: SamplingParams,
        seed: int,
        tokenizer: Tokenizer,
        limits: Limits,
        first: int = 0,
    ) -> None:
        limits.check_streams("n", params.n)
        prompt = limits.check_prompt("prompt", prompt)
        self._stop = StopRule.of(params, tokenizer)
        prompt_pages = pages_for(len(prompt))
        self.params = params
        self._params = limits.bound(params, len(prompt))
        stream_tokens = self._params.max_tokens or 1
        # Alone, its streams may run one after the other.
        most_pages = prompt_pages + pages_for(stream_tokens)
        limits.check_pages(
            most_pages,
            f"{prompt_pages} for the prompt, {pages_for(stream_tokens)} for a stream of "
            f"{stream_tokens} tokens",
            lambda most: prompt_pages + pages_for(min(most, stream_tokens)),
        )
        super().__init__(params.n, most_pages, params.priority)
        self.deadlines = Deadlines(params.timeout)
        self.prompt = prompt
        self._seed = seed
        self._first = first
        self._tokenizer = tokenizer
        num_top = params.prompt_logprobs
        self._scores = None if num_top is None else PromptScores(num_top)
        self.streams: list[Stream] = []

    def start(self, new_prompt: NewPrompt) -> list[Group]:
        """One group: the prompt and its streams."""
        params = self._params
        # Every token of a prompt needs a row of its own before it, to be scored from.
        scored = self._scores is not None
        prompt = Segment(self.prompt) if scored else new_prompt(self.prompt, params.cache_salt)
        phases: tuple[Phase, Phase] = ("candidate_prefill", "candidate_decode")
        group = Group(
            self, prompt, phases, salt=params.cache_salt, continued=True, scores=self._scores
        )
        streams = range(self._first, self._first + params.n)
        seeds = [derive_seed(self._seed, stream) for stream in streams]
        group.fork(params, seeds, self._stop)
        self.streams = group.streams
        phase = self.usage.phase("candidate_prefill")
        phase.reused_cache = context_length(prompt.context)
        phase.reused_prompt = (params.n - 1) * len(self.prompt)
        return [group]

    def group_finished(self, group: Group) -> list[Group]:
        """Set the result; no group follows."""
        self._finish(error=None)
        return []

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """Set the result from the tokens so far."""
        for stream in self.streams:
            stream.end(reason)
        if reason == "timeout" and not any(len(stream.segment) for stream in self.streams):
            error = TIMED_OUT
        self._finish(error)

    def fail(self, error: str) -> None:
        """Set a result without completions."""
        self.result = GenerateResult(self.prompt, [], self.usage, self.params, error)

    def _finish(self, error: str | None) -> None:
        self.usage.prompt_tokens = len(self.prompt)
        self.usage.completion_tokens = sum(len(stream.segment) for stream in self.streams)
        self.result = GenerateResult(
            prompt_token_ids=self.prompt,
            completions=[completion(stream, self._tokenizer) for stream in self.streams],
            usage=self.usage,
            params=self.params,
            error=error,
            prompt_logprobs=self._scores.result() if self._scores else None,
        )
