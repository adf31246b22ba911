"""What the scheduler moves: streams, groups of siblings, and the requests that own them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.kv.prefix_cache import Node
from gsr_engine.kv.segments import PAGE_SIZE, Context, Segment, Span
from gsr_engine.outputs import Completion, FinishReason, Phase, TopLogprobs, Usage
from gsr_engine.params import SamplingParams
from gsr_engine.text.stopping import StopMatcher, StopRule


@dataclass(eq=False, slots=True)
class Stream:
    """One stream being generated.

    `segment` holds exactly the generated tokens; what they continue is the segment's context.
    The last generated token has no KV until it is fed, and the end token is never fed. A stream
    is `held` while it has pages; one that is not waits for room and is computed again then. One to
    `keep` has them until its group's owner answered `group_finished`, because what follows reads
    them; else they are given back as it finishes. `told`: its request knows that it finished.
    `in_flight` tokens more than `segment` holds are being drawn: on a GPU the next step is planned
    before the tokens of this one are known.
    `top_logprobs` are as many as `logprobs` where asked for, else none; `matcher` looks for stop
    strings where there are any.
    """

    index: int
    params: SamplingParams
    seed: int
    stop_token_ids: frozenset[int]
    segment: Segment
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    keep: bool = False
    held: bool = False
    told: bool = False
    in_flight: int = 0
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    matcher: StopMatcher | None = None

    @property
    def finished(self) -> bool:
        """Whether the stream reached its terminal state."""
        return self.finish_reason is not None

    @property
    def stopped_text(self) -> str | None:
        """The text before the stop string that ended it; None unless one did."""
        return self.matcher.text if self.matcher is not None else None

    @property
    def content_length(self) -> int:
        """Generated tokens without the end token, or without those of a stop string."""
        if self.matcher is not None and self.matcher.text is not None:
            return self.matcher.content_length
        return len(self.segment) - (self.finish_reason == "stop")

    @property
    def span_length(self) -> int:
        """Tokens that a span of this stream may cover: those of its content that were fed.

        The last one drawn never is.
        """
        return min(self.content_length, len(self.segment) - (self.finish_reason != "given"))

    @property
    def needed(self) -> bool:
        """Whether its pages are still of use."""
        return self.keep or self.finish_reason is None

    @property
    def behind(self) -> bool:
        """Whether tokens before its newest, which is known, must be computed again."""
        waits = self.finish_reason is None and self.held and not self.in_flight
        return waits and self.segment.computed < len(self.segment.token_ids) - 1

    @property
    def num_drawn(self) -> int:
        """How many tokens were drawn, those in flight among them."""
        return len(self.segment.token_ids) + self.in_flight

    def append(self, token: int, logprob: float, top: TopLogprobs | None = None) -> None:
        """Take one drawn token; may finish the stream."""
        self.segment.token_ids.append(token)
        self.logprobs.append(logprob)
        if top is not None:
            self.top_logprobs.append(top)
        if token in self.stop_token_ids or (self.matcher is not None and self._said_stop(token)):
            self.finish_reason = "stop"
        elif len(self.segment.token_ids) == self.params.max_tokens:
            self.finish_reason = "length"

    def _said_stop(self, token: int) -> bool:
        armed = len(self.segment.token_ids) >= self.params.min_tokens
        return self.matcher is not None and self.matcher.push(token, armed)

    def end(self, reason: FinishReason) -> None:
        """Finish the stream from outside, unless it is finished."""
        self.finish_reason = self.finish_reason or reason


@dataclass(eq=False, slots=True)
class Group:
    """A prompt segment and the siblings forked after it (none: only the segment is computed).

    The prompt is prefilled once; its last row of logits is sampled once per sibling. All
    siblings share one context object: the prompt's context and the prompt itself.

    Attributes:
        request: the owner, told when the group is finished.
        phases: where its prefill and its decoding are counted.
        salt: of the prefix cache that its prompt enters; None keeps it out.
        open: the prompt is still being written, and its last row draws nothing yet.
        held: what it reads and its prompt have pages.
        pin: its place in the prefix cache while it is held.
        ready: everything that its streams read is computed.
    """

    request: Request[Any]
    prompt: Segment
    phases: tuple[Phase, Phase]
    salt: str | None = None
    open: bool = False
    streams: list[Stream] = field(default_factory=list)
    held: bool = False
    pin: Node | None = None
    ready: bool = False

    @property
    def context(self) -> Context:
        """What follows the prompt sees: the prompt's own context and the prompt."""
        return (*self.prompt.context, Span(self.prompt, 0, len(self.prompt)))

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
        """Add one sibling per seed; `params.max_tokens` must be given."""
        context, position = self.context, self.prompt.end_position
        for index, seed in enumerate(seeds):
            segment = Segment([], position, context)
            stream = Stream(index, params, seed, stop.token_ids, segment, keep=keep)
            stream.matcher = stop.matcher()
            self.streams.append(stream)

    def growing(self) -> Iterator[tuple[Segment, int]]:
        """Segments that lack a page for their newest tokens, and how many tokens that makes."""
        if len(self.prompt.token_ids) > PAGE_SIZE * len(self.prompt.pages):
            yield self.prompt, len(self.prompt.token_ids)
        for stream in self.streams:
            if stream.finish_reason is None and stream.held:
                # Written out: this runs for every stream in every step.
                num_tokens = len(stream.segment.token_ids) + stream.in_flight
                if num_tokens > PAGE_SIZE * len(stream.segment.pages):
                    yield stream.segment, num_tokens


Result = TypeVar("Result", covariant=True)
NewPrompt = Callable[[list[int], str], Segment]
"""(token ids, salt) to a segment: `PrefixCache.new_prompt`."""


class Request(ABC, Generic[Result]):
    """Something a caller waits for: it starts groups and answers when they finish.

    Attributes:
        num_streams: the most streams that it decodes at a time.
        priority: it overtakes what arrived before it, the more the higher.
        place: in the queue, given at submission and kept; the lower, the older.
        submitted: `time.monotonic()` of the submission; None once it was admitted.
        deadline: `time.monotonic()` at which `expire` is called, None for never.
        groups: what it is computing, writers before readers; None before it is admitted first.
        usage: what it cost so far.
        result: None until it is finished.
    """

    def __init__(self, num_streams: int, priority: int = 0) -> None:
        self.num_streams = num_streams
        self.priority = priority
        self.place: tuple[int, int] | None = None
        self.submitted: float | None = None
        self.deadline: float | None = None
        self.groups: list[Group] | None = None
        self.usage = Usage()
        self.result: Result | None = None

    @property
    def finished(self) -> bool:
        """Whether the result is there."""
        return self.result is not None

    @property
    def refining(self) -> bool:
        """Whether its candidates are done."""
        return any(group.is_refinement for group in self.groups or ())

    @abstractmethod
    def start(self, new_prompt: NewPrompt) -> list[Group]:
        """The first groups; called once, at admission."""

    def stream_finished(self, group: Group, stream: Stream) -> list[Group]:
        """Hear of a finished stream: may end its siblings, or return groups to start now."""
        return []

    @abstractmethod
    def group_finished(self, group: Group) -> list[Group]:
        """Take a finished group; return the groups that follow it, writers before readers.

        Called while the pages of the group are still held; they are given back once the groups
        that follow hold what they read.
        """

    def expire(self) -> None:
        """The deadline has passed: end the streams that need not go on."""

    @abstractmethod
    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """Give a result at once, from whatever is there: it was aborted, or failed."""


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
    )
