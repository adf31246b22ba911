"""What the scheduler moves: streams, groups of siblings, and the requests that own them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gsr_engine.outputs import FinishReason, Phase, Usage
from gsr_engine.params import SamplingParams
from gsr_engine.segments import Segment, Span


def derive_seed(seed: int, *path: int) -> int:
    """H(seed, path): a 63-bit seed for one stream, e.g. path = (prompt, phase, round, stream)."""
    text = ",".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(eq=False, slots=True)
class Sequence:
    """One stream being generated.

    `segment` holds exactly the generated tokens; what they continue is the segment's context.
    The last generated token has no KV until it is fed, and the end token is never fed.
    """

    index: int
    params: SamplingParams
    seed: int
    stop_token_ids: frozenset[int]
    segment: Segment
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def finished(self) -> bool:
        """Whether the stream reached its terminal state."""
        return self.finish_reason is not None

    @property
    def content_length(self) -> int:
        """Generated tokens without the end token: what a span of this stream may cover."""
        return len(self.segment) - (self.finish_reason == "stop")

    def append(self, token: int, logprob: float) -> None:
        """Take one drawn token; may finish the stream."""
        self.segment.token_ids.append(token)
        self.logprobs.append(logprob)
        if token in self.stop_token_ids:
            self.finish_reason = "stop"
        elif len(self.segment.token_ids) == self.params.max_tokens:
            self.finish_reason = "length"


@dataclass(eq=False, slots=True)
class Group:
    """A prompt segment and the siblings forked after it (none: only the segment is computed).

    The prompt is prefilled once; its last row of logits is sampled once per sibling. All
    siblings share one context object: the prompt's context and the prompt itself.

    Attributes:
        request: the owner, told when the group is finished.
        phases: where its prefill and its decoding are counted.
        keep: hold the streams' pages until the owner answered `group_finished`, because what
            follows reads them; else each stream's pages are freed as it finishes.
    """

    request: Request[Any]
    prompt: Segment
    phases: tuple[Phase, Phase]
    keep: bool = False
    sequences: list[Sequence] = field(default_factory=list)

    @property
    def prefilled(self) -> bool:
        """Whether the whole prompt is computed."""
        return self.prompt.computed == len(self.prompt)

    @property
    def finished(self) -> bool:
        """Whether nothing of the group is left to compute."""
        return self.prefilled and all(sequence.finished for sequence in self.sequences)

    def fork(
        self, params: SamplingParams, seeds: list[int], stop_token_ids: frozenset[int]
    ) -> None:
        """Add one sibling per seed; `params.max_tokens` must be given."""
        context = (*self.prompt.context, Span(self.prompt, 0, len(self.prompt)))
        position = self.prompt.end_position
        for index, seed in enumerate(seeds):
            segment = Segment([], position, context)
            self.sequences.append(Sequence(index, params, seed, stop_token_ids, segment))


Result = TypeVar("Result", covariant=True)


class Request(ABC, Generic[Result]):
    """Something a caller waits for: it starts groups and answers when they finish.

    Attributes:
        pages_needed: the most pages that it can hold at any time, at `max_tokens`: it is admitted
            when that many are unreserved, so an admitted request always runs to its end.
        num_streams: the most streams that it decodes at a time.
        usage: what it cost so far.
        result: None until it is finished.
    """

    def __init__(self, pages_needed: int, num_streams: int) -> None:
        self.pages_needed = pages_needed
        self.num_streams = num_streams
        self.usage = Usage()
        self.result: Result | None = None

    @property
    def finished(self) -> bool:
        """Whether the result is there."""
        return self.result is not None

    @abstractmethod
    def start(self) -> list[Group]:
        """The first groups; called once, at admission."""

    @abstractmethod
    def group_finished(self, group: Group) -> list[Group]:
        """Take a finished group; return the groups that follow it, writers before readers.

        Called while the pages of the group are still held; they are given back once the groups
        that follow hold what they read.
        """
