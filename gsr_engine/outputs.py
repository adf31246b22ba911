"""What a request gives back: one shape, whatever n is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error", "given"]
TopLogprobs = list[tuple[int, float]]
"""(token id, log-probability), the most likely first."""
Phase = Literal["candidate_prefill", "candidate_decode", "refine_prefill", "refine_decode"]


@dataclass(slots=True)
class PhaseUsage:
    """What one phase cost.

    Attributes:
        tokens_computed: tokens that went through the model.
        reused_cache, reused_prompt, reused_candidates: tokens whose KV was read where a run
            without sharing would compute it anew: found in the prefix cache; of the prompt, by
            siblings and by refinements; of candidates, where they were written.
        seconds: the phase's share of the steps that it took part in, by tokens; over all
            requests the shares add up to the time that the engine was busy.
        steps, step_tokens: those steps, and the tokens of all requests in them.
    """

    tokens_computed: int = 0
    reused_cache: int = 0
    reused_prompt: int = 0
    reused_candidates: int = 0
    seconds: float = 0.0
    steps: int = 0
    step_tokens: int = 0

    @property
    def tokens_reused(self) -> int:
        """All reused tokens."""
        return self.reused_cache + self.reused_prompt + self.reused_candidates

    @property
    def mean_batch_size(self) -> float:
        """Tokens of all requests in a step of this phase, on average."""
        return self.step_tokens / self.steps if self.steps else 0.0


@dataclass(slots=True)
class Usage:
    """Cost of a request, by phase. `generate` uses the candidate phases only.

    Attributes:
        queue_seconds: from submission to the first admission.
        peak_pages: the most KV pages that it held.
    """

    phases: dict[Phase, PhaseUsage] = field(default_factory=dict)
    queue_seconds: float = 0.0
    peak_pages: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def phase(self, name: Phase) -> PhaseUsage:
        """The counts of one phase, begun at zero."""
        usage = self.phases.get(name)
        if usage is None:
            usage = self.phases[name] = PhaseUsage()
        return usage

    def add(self, other: Usage) -> None:
        """Add the cost of another request."""
        for name, theirs in other.phases.items():
            mine = self.phase(name)
            for part in fields(PhaseUsage):
                total = getattr(mine, part.name) + getattr(theirs, part.name)
                setattr(mine, part.name, total)
        self.queue_seconds += other.queue_seconds
        self.peak_pages += other.peak_pages
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens

    def as_dict(self) -> dict[str, dict[str, float]]:
        """The phases as plain numbers, which add up over requests."""
        return {
            name: {**asdict(usage), "tokens_reused": usage.tokens_reused}
            for name, usage in self.phases.items()
        }


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated stream.

    Attributes:
        index: which of the n (or k) streams.
        text: the decoded tokens without special tokens; to the character what precedes a stop
            string, of whose first token it may need a part.
        token_ids: everything that was drawn, the end token or the stop string included.
        logprobs: log-probability of each token under the model at temperature 1, untruncated and
            not penalised.
        finish_reason: "stop" at an end token or a stop string, "length" at max_tokens, "abort"
            when it was stopped from outside, "error" when its request failed, "given" for a
            candidate that the caller brought.
        content_length: tokens before the end token, or before the first that holds anything of a
            stop string.
        top_logprobs: for each token the most likely ones in its place, under the same model as
            `logprobs`; None unless asked for.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    content_length: int
    top_logprobs: list[TopLogprobs] | None = None

    @property
    def content_ids(self) -> list[int]:
        """The tokens without the end token, or without those of a stop string."""
        return self.token_ids[: self.content_length]

    @property
    def logprob(self) -> float:
        """Log-probability of the whole stream."""
        return sum(self.logprobs)


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """What `Engine.generate` and `Engine.chat` give for one prompt; `error` says why it failed."""

    prompt_token_ids: list[int]
    completions: list[Completion]
    usage: Usage
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RefineResult:
    """What `Engine.self_refine` gives for one problem.

    Attributes:
        text: the refined solution, without its thinking where the checkpoint thinks.
        answer: its final answer as the checkpoint's pattern finds it, None when there is none.
        refinement: the refined stream whole, the first of those that won the vote where there were
            several; None when too few candidates were usable.
        candidates: all k of them, in the order of their index.
        used: indices of the solutions of the round before (without `widths`: of the candidates)
            that the refinement read, in the order it read them.
        rounds: the streams of every round of refinements; the last holds `refinement`.
        error: why there is no refinement, else None.
    """

    text: str
    answer: str | None
    refinement: Completion | None
    candidates: list[Completion]
    used: list[int]
    rounds: list[list[Completion]]
    usage: Usage
    error: str | None = None

    @property
    def k_effective(self) -> int:
        """How many candidates the refinement read."""
        return len(self.used)
