"""The plain request: one prompt, n streams."""

from __future__ import annotations

from gsr_engine.limits import Limits
from gsr_engine.outputs import Completion, GenerateResult
from gsr_engine.params import SamplingParams
from gsr_engine.segments import Segment, pages_for
from gsr_engine.sequence import Group, Request, Sequence, derive_seed
from gsr_engine.tokenizer import Tokenizer


def stop_ids(params: SamplingParams, tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that end a stream."""
    own = frozenset[int]() if params.ignore_eos else tokenizer.stop_ids
    return own | frozenset(params.stop_token_ids)


def completion(sequence: Sequence, tokenizer: Tokenizer) -> Completion:
    """The output of a stream."""
    token_ids = list(sequence.segment.token_ids)
    return Completion(
        index=sequence.index,
        text=tokenizer.decode(token_ids[: sequence.content_length]),
        token_ids=token_ids,
        logprobs=list(sequence.logprobs),
        finish_reason=sequence.finish_reason or "error",
    )


class GenerateRequest(Request[GenerateResult]):
    """Prefill a prompt once, fork n streams.

    Raises:
        InvalidRequest: the prompt is empty or too long, or the pool too small.
    """

    def __init__(
        self,
        prompt: list[int],
        params: SamplingParams,
        seed: int,
        tokenizer: Tokenizer,
        limits: Limits,
    ) -> None:
        limits.check_streams("n", params.n)
        limits.check_prompt("prompt", prompt)
        prompt_pages = pages_for(len(prompt))
        free_pages = (limits.num_pages - prompt_pages) // params.n
        self._params = limits.bound(params, len(prompt), free_pages)
        stream_pages = pages_for(self._params.max_tokens or 1)
        pages = prompt_pages + params.n * stream_pages
        limits.check_pages(
            pages, f"{prompt_pages} for the prompt, {params.n} x {stream_pages} for streams"
        )
        super().__init__(pages, params.n)
        self._prompt = prompt
        self._seed = seed
        self._tokenizer = tokenizer

    def start(self) -> list[Group]:
        """One group: the prompt and its streams."""
        params = self._params
        group = Group(self, Segment(self._prompt), ("candidate_prefill", "candidate_decode"))
        seeds = [derive_seed(self._seed, stream) for stream in range(params.n)]
        group.fork(params, seeds, stop_ids(params, self._tokenizer))
        return [group]

    def group_finished(self, group: Group) -> list[Group]:
        """The result; nothing follows."""
        siblings = len(group.sequences)
        self.usage.prompt_tokens = len(self._prompt)
        self.usage.completion_tokens = sum(len(s.segment) for s in group.sequences)
        self.usage.phase("candidate_prefill").tokens_reused = (siblings - 1) * len(self._prompt)
        self.result = GenerateResult(
            prompt_token_ids=self._prompt,
            completions=[completion(s, self._tokenizer) for s in group.sequences],
            usage=self.usage,
        )
        return []
