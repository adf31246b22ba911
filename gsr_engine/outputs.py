"""The results of requests: always a list of completions, also for n = 1."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Literal

from gsr_engine.params import SamplingParams, SelfRefineParams

FinishReason = Literal["stop", "length", "repetition", "timeout", "abort", "error", "given"]
StopReason = str | int | None
"""The stop string, or the id in `stop_token_ids`, that ended a stream; None if neither did."""
CUT: tuple[FinishReason, ...] = ("length", "repetition", "timeout")
"""How a stream ends that was going on: at a limit, or because it ran in a loop."""
TIMED_OUT = "the timeout passed before the first token"
"""How the `error` of a result begins if `timeout` ended its request with nothing to answer with."""
NOT_FINITE = "the model's logits are not finite"
"""The `error` of a request whose own tokens the model cannot go on from."""
TOO_FEW_USABLE = "candidates are usable"
"""What the `error` says of a refinement that has too few candidates."""
ABORTED = "aborted"
"""The `error` of a refinement that was ended from outside."""
TopLogprobs = list[tuple[int, float]]
"""(token id, log-probability), the most likely first."""
Phase = Literal["candidate_prefill", "candidate_decode", "refine_prefill", "refine_decode"]


@dataclass(slots=True)
class PhaseUsage:
    """The cost of one phase of a request.

    The three `reused_*` fields count tokens whose KV was shared instead of recomputed.

    Attributes:
        tokens_computed: tokens that went through the model.
        reused_cache: tokens found in the prefix cache.
        reused_prompt: prompt tokens that siblings and refinements read.
        reused_candidates: candidate tokens that a branched refinement reads in place.
        seconds: the phase's share, by tokens, of the steps that it took part in. Over all requests
            the shares add up to the time that the engine was busy.
        steps: steps that the phase took part in.
        step_tokens: tokens of all requests in those steps.
        tokens_proposed: tokens that were looked up and verified; they are among `tokens_computed`.
        tokens_accepted: those of them that equalled the tokens drawn.
    """

    tokens_computed: int = 0
    reused_cache: int = 0
    reused_prompt: int = 0
    reused_candidates: int = 0
    seconds: float = 0.0
    steps: int = 0
    step_tokens: int = 0
    tokens_proposed: int = 0
    tokens_accepted: int = 0

    @property
    def tokens_reused(self) -> int:
        """All reused tokens."""
        return self.reused_cache + self.reused_prompt + self.reused_candidates

    @property
    def mean_batch_size(self) -> float:
        """The mean number of tokens, of all requests, in the steps of this phase."""
        return self.step_tokens / self.steps if self.steps else 0.0


@dataclass(slots=True)
class Usage:
    """The cost of a request, by phase. `generate` uses the candidate phases only.

    Attributes:
        phases: the phases that the request reached.
        queue_seconds: seconds from submission to the first admission.
        peak_pages: the most KV pages that the request held.
        prompt_tokens: tokens of the prompt (of the direct prompt for a refinement).
        completion_tokens: generated tokens of all streams.
    """

    phases: dict[Phase, PhaseUsage] = field(default_factory=dict)
    queue_seconds: float = 0.0
    peak_pages: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def phase(self, name: Phase) -> PhaseUsage:
        """The counts of one phase; they begin at zero."""
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
        text: the decoded tokens without special tokens. If a stop string ended the stream, the
            text ends exactly before it, even if the stop string starts inside a token.
        token_ids: all drawn tokens, including the end token or the stop string.
        logprobs: log-probability of each token under the model at temperature 1, without
            truncation and penalties.
        finish_reason: "stop" at an end token or a stop string, "length" at max_tokens or where the
            context ends, "repetition" in a loop (`SamplingParams.repetition_detection`), "timeout"
            at the `timeout` of its request. "abort" if the stream was stopped from outside,
            "error" if its request failed. "given" for a candidate that the caller supplied.
        content_length: number of tokens before the end token, or before the first token that
            contains a part of the stop string.
        top_logprobs: for each token the most likely tokens at its position, computed like
            `logprobs`; None unless asked for.
        stop_reason: what of `SamplingParams.stop` or `stop_token_ids` ended the stream: the string
            or the id. None at the checkpoint's own end token, and if `finish_reason` is not "stop".
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    content_length: int
    top_logprobs: list[TopLogprobs] | None = None
    stop_reason: StopReason = None

    @property
    def content_ids(self) -> list[int]:
        """The tokens without the end token, or without those of a stop string."""
        return self.token_ids[: self.content_length]

    @property
    def logprob(self) -> float:
        """Log-probability of the whole stream."""
        return sum(self.logprobs)


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """The log-probabilities of a prompt's tokens; entry i belongs to token i of the prompt.

    There are as many entries as the prompt has tokens, or fewer if the request ended before all of
    them were computed.

    Attributes:
        logprobs: log-probability of each token given all before it, as in `Completion.logprobs`.
            None for the first token: nothing is before it.
        top_logprobs: for each token the most likely tokens in its place, and None for the first.
            The whole field is None if `SamplingParams.prompt_logprobs` is 0.
    """

    logprobs: list[float | None]
    top_logprobs: list[TopLogprobs | None] | None


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """The result of `Engine.generate` and `Engine.chat` for one prompt.

    Attributes:
        prompt_token_ids: the prompt.
        completions: its n streams; none if it ended before it was admitted.
        usage: the cost of the whole request.
        params: what it was made with. Temperature, truncation and penalties are numbers: where the
            caller gave None, those that were used.
        error: the reason if the request failed, or if its `timeout` passed before it had a token;
            else None.
        prompt_logprobs: the log-probabilities of the prompt's tokens; None unless asked for.
    """

    prompt_token_ids: list[int]
    completions: list[Completion]
    usage: Usage
    params: SamplingParams
    error: str | None = None
    prompt_logprobs: PromptLogprobs | None = None


@dataclass(frozen=True, slots=True)
class RefineResult:
    """The result of `Engine.self_refine` for one problem.

    Attributes:
        text: the refined solution without its thinking.
        answer: its final answer, found by the checkpoint's pattern; None if it states none, or if
            the template asks for none in a fixed form.
        refinement: the refined stream. Of several refinements it is the first with the majority's
            answer. None if the last round never began.
        candidates: all k candidates, in the order of their index.
        used: indices of the solutions that the refinement read, in the order it read them. They
            are candidates, or with `widths` solutions of the round before.
        rounds: the streams of every round of refinements; the last round holds `refinement`.
        usage: the cost of the whole request.
        params: what it was made with; `candidate` and `refine` as in `GenerateResult.params`.
        error: the reason if the request failed or was aborted, or if its `timeout` passed before
            the last round had a token; else None.
        summary_tokens: the most tokens of a solution that a refinement was shown. Less than
            `SelfRefineParams.summary_tokens` if the context had no room for more; 0 if the request
            failed.
        num_shortened: how many solutions were shown with fewer tokens than asked for, because the
            context had no room for more.
        num_stopped: how many candidates were stopped, and left out, because `first` or `agreement`
            had enough of the others.
        read: of every round and each of its prompts, the indices of the solutions that it showed.
    """

    text: str
    answer: str | None
    refinement: Completion | None
    candidates: list[Completion]
    used: list[int]
    rounds: list[list[Completion]]
    usage: Usage
    params: SelfRefineParams
    error: str | None = None
    summary_tokens: int = 0
    num_shortened: int = 0
    num_stopped: int = 0
    read: list[list[list[int]]] = field(default_factory=list)

    @classmethod
    def failed(cls, error: str, usage: Usage, params: SelfRefineParams) -> RefineResult:
        """A result without solutions."""
        return cls("", None, None, [], [], [], usage, params, error)

    @property
    def k_effective(self) -> int:
        """How many candidates the refinement read."""
        return len(self.used)
