"""The events that `AsyncEngine` reports to a caller while its request runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from gsr_engine.outputs import FinishReason, StopReason

ResultT = TypeVar("ResultT", covariant=True)


@dataclass(frozen=True, slots=True)
class Submitted:
    """The engine has taken the request; `AsyncEngine.abort` accepts this id."""

    request_id: str


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
    """

    index: int
    token_ids: tuple[int, ...]
    text: str

    @property
    def stream(self) -> tuple[int, int]:
        """(round, index of the stream)."""
        return 0, self.index


@dataclass(frozen=True, slots=True)
class CandidateDone:
    """A candidate, or a stream of `generate`, is finished; the reasons are its `Completion`'s."""

    index: int
    finish_reason: FinishReason
    stop_reason: StopReason = None


@dataclass(frozen=True, slots=True)
class RefineToken:
    """New tokens and text of a refinement, as in `CandidateToken`; `round` counts from 1."""

    round: int
    index: int
    token_ids: tuple[int, ...]
    text: str

    @property
    def stream(self) -> tuple[int, int]:
        """(round, index of the stream)."""
        return self.round, self.index


@dataclass(frozen=True, slots=True)
class Final(Generic[ResultT]):
    """The last event of every request: the result, also of a failed or aborted request."""

    result: ResultT


TokenEvent = CandidateToken | RefineToken
Event = Submitted | PhaseStarted | TokenEvent | CandidateDone | Final[ResultT]
