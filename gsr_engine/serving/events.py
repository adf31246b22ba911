"""The events that `AsyncEngine` reports to a caller while its request runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from gsr_engine.outputs import FinishReason, StopReason, TopLogprobs

ResultT = TypeVar("ResultT", covariant=True)


@dataclass(frozen=True, slots=True)
class Submitted:
    """The engine has taken the request; `AsyncEngine.abort` accepts this id.

    `prompt_token_ids` is its prompt: of a problem the direct one, which candidates continue.
    """

    request_id: str
    prompt_token_ids: Sequence[int] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """A round of streams begins: round 0 are the candidates, or the streams of `generate`.

    Later rounds are refinements.
    """

    phase: Literal["candidates", "refinement"]
    round: int


@dataclass(frozen=True, slots=True)
class CandidateToken:
    """New tokens and text of a candidate, or of a stream of `generate`, since its last event.

    Attributes:
        index: which of the k (or n) streams.
        token_ids: the new tokens, including an end token. Those of all events of a stream
            together are its `Completion.token_ids`.
        text: the new text; all together are `Completion.text`. A character is reported with its
            last token, so the text may be empty. If the stream ends inside a character, the rest
            of the text comes without tokens.
        logprobs: of the new tokens, as in `Completion`; those of a given candidate have none.
        top_logprobs: likewise; empty unless they were asked for.
    """

    index: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...] = field(default=(), compare=False)
    top_logprobs: tuple[TopLogprobs, ...] = field(default=(), compare=False)

    @property
    def stream(self) -> tuple[int, int]:
        """(round, index of the stream)."""
        return 0, self.index


@dataclass(frozen=True, slots=True)
class CandidateDone:
    """A candidate, or a stream of `generate`, is finished; fields as in its `Completion`."""

    index: int
    finish_reason: FinishReason
    stop_reason: StopReason = None
    content_length: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class RefineToken:
    """New tokens and text of a refinement, as in `CandidateToken`; `round` counts from 1."""

    round: int
    index: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...] = field(default=(), compare=False)
    top_logprobs: tuple[TopLogprobs, ...] = field(default=(), compare=False)

    @property
    def stream(self) -> tuple[int, int]:
        """(round, index of the stream)."""
        return self.round, self.index


@dataclass(frozen=True, slots=True)
class Final(Generic[ResultT]):
    """The last event of every request: the result, also of a failed or aborted request."""

    result: ResultT


Coalesce = Literal["none", "inner", "all"]
"""The rounds whose streams are told in two pieces: none, all but the last, or all of them.

The first piece are the tokens that come first, when they come; the second is the rest of the
stream, when it ends. `generate` and `chat` have one round, which is the last.
"""

TokenEvent = CandidateToken | RefineToken
Event = Submitted | PhaseStarted | TokenEvent | CandidateDone | Final[ResultT]
