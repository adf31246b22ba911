"""The objects that the scheduler moves: streams, groups of siblings, and their requests.

Each of the three has an explicit state; the README of this package draws their lives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar

from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.kv.prefix_cache import Node
from gsr_engine.kv.segments import PAGE_SIZE, Context, Segment, Span
from gsr_engine.outputs import Completion, FinishReason, Phase, StopReason, TopLogprobs, Usage
from gsr_engine.params import SamplingParams
from gsr_engine.repetition import RepetitionMatcher
from gsr_engine.requests.deadlines import Deadlines
from gsr_engine.requests.lookup import Lookup
from gsr_engine.requests.prompt_scores import PromptScores
from gsr_engine.text.stopping import StopMatcher, StopRule


class StreamState(Enum):
    """Where a stream is in its life."""

    WAITING = "waiting"
    """It holds no pages: its group waits, or the stream was paused for lack of pages."""
    RUNNING = "running"
    """It holds pages and generates."""
    FINISHED = "finished"
    """It has its finish reason; its request has not been notified yet."""
    SETTLED = "settled"
    """Its request has been notified."""


# A member of an enum costs ten times a global (Python 3.11), which counts for every stream.
RUNNING = StreamState.RUNNING


@dataclass(eq=False, slots=True)
class Stream:
    """One stream being generated.

    `segment` holds exactly the generated tokens; the segment's context is the prompt that they
    continue. The last generated token has no KV until it is fed, and the end token is never fed.

    Attributes:
        stop_token_ids: the ids that end it, each with its `stop_reason`.
        state: where it is in its life.
        holds_pages: whether it holds the pages of its segment. A running stream does; a finished
            one does until they are freed, and may lose them to a preemption.
        keep: the pages stay after the stream has finished, until the request has answered
            `group_finished`, because the next groups will read them. Otherwise they are freed
            when the stream finishes.
        in_flight: tokens being drawn that `segment` does not hold yet. On a GPU the next step is
            planned before the tokens of the current one are known.
        top_logprobs: one entry per token if they were asked for, else empty.
        matcher: looks for stop strings; None if the request has none.
        loop_matcher: looks for loops; None if they do not end the stream.
        hold_back: characters at the end of its text that a stop string may still remove.
        lookup: proposes its next tokens; None until drafts are first considered for it.
    """

    index: int
    params: SamplingParams
    seed: int
    stop_token_ids: Mapping[int, StopReason]
    segment: Segment
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    state: StreamState = StreamState.WAITING
    keep: bool = False
    holds_pages: bool = False
    in_flight: int = 0
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    matcher: StopMatcher | None = None
    loop_matcher: RepetitionMatcher | None = None
    hold_back: int = 0
    lookup: Lookup | None = None

    @classmethod
    def given(cls, index: int, params: SamplingParams, token_ids: list[int]) -> Stream:
        """A finished stream of tokens that the caller supplied; nothing is generated for it."""
        stream = cls(index, params, 0, {}, Segment(token_ids))
        stream.end("given")
        return stream

    @property
    def finished(self) -> bool:
        """Whether the stream has its finish reason."""
        return self.finish_reason is not None

    @property
    def stopped_text(self) -> str | None:
        """The text before the stop string that ended the stream; None unless one did."""
        return self.matcher.text if self.matcher is not None else None

    @property
    def stop_reason(self) -> StopReason:
        """The stop string or the id of the caller's that ended the stream, if one did."""
        if self.finish_reason != "stop":
            return None
        if self.matcher is not None and self.matcher.found is not None:
            return self.matcher.found
        return self.stop_token_ids.get(self.segment.token_ids[-1])

    @property
    def content_length(self) -> int:
        """Number of generated tokens before the end token, or before those of a stop string."""
        if self.matcher is not None and self.matcher.text is not None:
            return self.matcher.content_length
        return len(self.segment) - (self.finish_reason == "stop")

    @property
    def span_length(self) -> int:
        """Number of tokens that a span of this stream may cover: tokens of its content with KV.

        The last token drawn was never fed, so it has no KV. Given tokens were never drawn.
        """
        return min(self.content_length, len(self.segment) - (self.finish_reason != "given"))

    @property
    def needed(self) -> bool:
        """Whether it still needs its pages."""
        return self.keep or self.finish_reason is None

    @property
    def behind(self) -> bool:
        """Whether tokens before its newest one must be recomputed, e.g. after a preemption."""
        waits = self.state is RUNNING and not self.in_flight
        return waits and self.segment.computed < len(self.segment.token_ids) - 1

    @property
    def decodes(self) -> bool:
        """Whether it lacks the KV of no token but its newest."""
        num_drawn = len(self.segment.token_ids) + self.in_flight
        return self.state is RUNNING and 0 < num_drawn == self.segment.computed + 1

    @property
    def num_drawn(self) -> int:
        """Number of tokens drawn, including those in flight."""
        return len(self.segment.token_ids) + self.in_flight

    def append(self, token: int, logprob: float, top: TopLogprobs | None = None) -> None:
        """Take one drawn token; may finish the stream."""
        self.segment.token_ids.append(token)
        self.logprobs.append(logprob)
        if top is not None:
            self.top_logprobs.append(top)
        loops = self.loop_matcher is not None and self.loop_matcher.push(token)
        if token in self.stop_token_ids or (
            self.matcher is not None and self._completes_stop(token, self.matcher)
        ):
            self.end("stop")
        elif len(self.segment.token_ids) == self.params.max_tokens:
            self.end("length")
        elif loops and len(self.segment.token_ids) >= self.params.min_tokens:
            self.end("repetition")

    def _completes_stop(self, token: int, matcher: StopMatcher) -> bool:
        armed = len(self.segment.token_ids) >= self.params.min_tokens
        return matcher.push(token, armed)

    def end(self, reason: FinishReason) -> None:
        """Finish the stream; a finished one is left as it is."""
        if self.finish_reason is None:
            self.finish_reason = reason
            self.state = StreamState.FINISHED


class GroupState(Enum):
    """Where a group is in its life."""

    WAITING = "waiting"
    """It holds no pages: it was not admitted yet, or it was preempted."""
    PREFILLING = "prefilling"
    """It holds pages; something that its streams read is not computed yet."""
    DECODING = "decoding"
    """Everything that its streams read is computed."""
    FINISHED = "finished"
    """Its pages are freed for good."""


@dataclass(eq=False, slots=True)
class Group:
    """A prompt segment and the siblings forked after it. Without siblings it is only computed.

    The prompt is prefilled once; its last row of logits is sampled once per sibling. All
    siblings share one context object: the prompt's context and the prompt itself.

    Attributes:
        request: the owner; it is notified when the group is finished.
        phases: the phases to which its prefill and its decoding are charged.
        salt: salt of its prompt in the prefix cache; None keeps the prompt out of the cache.
        open: the prompt is still being written, so its last row draws nothing yet.
        continued: a later prompt may go on where a stream ended, so the prefix cache keeps what the
            streams wrote. It needs a salt.
        looks_up: drafts for its streams are looked up in what they see, if the engine does that.
        scores: the log-probabilities of its prompt's tokens; None if they are not wanted. A prompt
            with scores has no context, and nobody else reads it before all of them are known.
        state: where it is in its life.
        pin: its node in the prefix cache while it holds pages.
    """

    request: Request[Any]
    prompt: Segment
    phases: tuple[Phase, Phase]
    salt: str | None = None
    open: bool = False
    continued: bool = False
    looks_up: bool = True
    scores: PromptScores | None = None
    streams: list[Stream] = field(default_factory=list)
    state: GroupState = GroupState.WAITING
    pin: Node | None = None

    @property
    def context(self) -> Context:
        """The context of a segment behind the prompt: the prompt's own context and the prompt."""
        return (*self.prompt.context, Span(self.prompt, 0, len(self.prompt)))

    @property
    def holds_pages(self) -> bool:
        """Whether it holds the pages of its prompt and of the prompt's context."""
        return self.state is GroupState.PREFILLING or self.state is GroupState.DECODING

    @property
    def finished(self) -> bool:
        """Whether nothing of the group is left to compute."""
        if self.streams:
            return all(stream.finished for stream in self.streams)
        return not self.open and self.prompt.computed == len(self.prompt)

    @property
    def is_refinement(self) -> bool:
        """Whether it belongs to a refinement rather than to its candidates."""
        return self.phases[0] == "refine_prefill"

    def fork(
        self,
        params: SamplingParams,
        seeds: list[int],
        stop: StopRule,
        keep: bool = False,
    ) -> None:
        """Add one sibling per seed; no number in `params` may be None."""
        context, position, reads_text = self.context, self.prompt.end_position, stop.reads_text
        for index, seed in enumerate(seeds):
            segment = Segment([], position, context)
            stream = Stream(index, params, seed, stop.token_ids, segment, keep=keep)
            if reads_text:
                stream.matcher, stream.hold_back = stop.matcher(), stop.hold_back
            stream.loop_matcher = stop.loop_matcher()
            self.streams.append(stream)

    def growing(self) -> Iterator[tuple[Segment, int]]:
        """(segment, its number of tokens) of each segment that lacks a page for its newest ones."""
        if len(self.prompt.token_ids) > PAGE_SIZE * len(self.prompt.pages):
            yield self.prompt, len(self.prompt.token_ids)
        for stream in self.streams:
            if stream.state is RUNNING:
                # Without `num_drawn` and `pages_for`: this runs for every stream in every step, and
                # calls would cost more than the arithmetic.
                num_tokens = len(stream.segment.token_ids) + stream.in_flight
                if num_tokens > PAGE_SIZE * len(stream.segment.pages):
                    yield stream.segment, num_tokens


Result = TypeVar("Result", covariant=True)
NewPrompt = Callable[[list[int], str], Segment]
"""(token ids, salt) to a segment behind the cached prefix: `Memory.new_prompt`."""


class RequestState(Enum):
    """Where a request is in its life, as the scheduler sees it."""

    NEW = "new"
    """It was not submitted yet."""
    QUEUED = "queued"
    """It waits to be admitted for the first time."""
    RUNNING = "running"
    """It is admitted, and its groups hold pages."""
    PREEMPTED = "preempted"
    """It lost its pages, kept its tokens, and waits to be admitted again."""
    FINISHED = "finished"
    """It has its result and holds nothing."""


class QueuePosition(NamedTuple):
    """A place in the queue that a request keeps for life; lower means older.

    `arrival` counts submissions and is unique. `rank` is the arrival minus the places that the
    priority overtakes.
    """

    rank: int
    arrival: int


class Request(ABC, Generic[Result]):
    """A call that a caller waits for: it starts groups and is notified when they finish.

    Attributes:
        num_streams: the most streams that it decodes at the same time.
        most_pages: the most KV pages that it needs at a time if it runs alone and finds nothing in
            the prefix cache. Not more than the pool has.
        priority: the higher, the more earlier requests it overtakes.
        state: where it is in its life.
        queue_position: its place in the queue; without meaning before it is submitted.
        submitted_at: the engine's clock at the submission.
        deadlines: the moments at which `expire` is called.
        groups: the groups that it computes, writers before readers. Empty until it is first
            considered for admission, and once it is finished.
        usage: its cost so far.
        result: None until it is finished.
    """

    def __init__(self, num_streams: int, most_pages: int, priority: int = 0) -> None:
        self.num_streams = num_streams
        self.most_pages = most_pages
        self.priority = priority
        self.state = RequestState.NEW
        self.queue_position = QueuePosition(0, -1)
        self.submitted_at = 0.0
        self.deadlines = Deadlines()
        self.groups: list[Group] = []
        self.usage = Usage()
        self.result: Result | None = None

    @property
    def finished(self) -> bool:
        """Whether it has its result."""
        return self.result is not None

    @property
    def refining(self) -> bool:
        """Whether it has begun a refinement."""
        return any(group.is_refinement for group in self.groups)

    @abstractmethod
    def start(self, new_prompt: NewPrompt) -> list[Group]:
        """The first groups, at least one; called once, before the first admission."""

    def stream_finished(self, group: Group, stream: Stream) -> list[Group]:
        """Called for each finished stream: may end its siblings; returns groups to start now."""
        return []

    @abstractmethod
    def group_finished(self, group: Group) -> list[Group]:
        """Called for each finished group; returns the groups that follow, writers before readers.

        The group still holds its pages. They are freed once the groups that follow hold the pages
        that they read.
        """

    def expire(self, now: float) -> None:
        """Called when one of its deadlines has passed: ends it, or stops its candidates."""
        if self.deadlines.over(now):
            self.end("timeout")
        else:
            self.stop_candidates()

    def stop_candidates(self) -> None:
        """Called when the time of the candidates is over: ends those that still run."""

    @abstractmethod
    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """Called when it was aborted, failed or timed out: sets a result from the tokens so far."""

    @abstractmethod
    def fail(self, error: str) -> None:
        """Called when even `end` raised: sets a result that holds nothing but the error."""


def completion(stream: Stream, tokenizer: Tokenizer) -> Completion:
    """The output of a stream."""
    token_ids = list(stream.segment.token_ids)
    text = stream.stopped_text
    return Completion(
        index=stream.index,
        text=tokenizer.decode(token_ids[: stream.content_length]) if text is None else text,
        token_ids=token_ids,
        logprobs=list(stream.logprobs),
        finish_reason=stream.finish_reason or "error",
        content_length=stream.content_length,
        top_logprobs=list(stream.top_logprobs) if stream.params.top_logprobs else None,
        stop_reason=stream.stop_reason,
    )
