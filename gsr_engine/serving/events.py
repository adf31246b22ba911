"""What a caller hears of a request while it runs (`AsyncEngine`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from gsr_engine.outputs import FinishReason

ResultT = TypeVar("ResultT", covariant=True)


@dataclass(frozen=True, slots=True)
class Submitted:
    """The engine has taken the request; `AsyncEngine.abort` knows it by this id."""

    request_id: str


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """Streams begin: the candidates (or those of `generate`), round 0, or a round of refinement."""

    phase: Literal["candidates", "refinement"]
    round: int


@dataclass(frozen=True, slots=True)
class CandidateToken:
    """What a candidate, or a stream of `generate`, has grown by since its last such event.

    Attributes:
        index: which of the k (or n) streams.
        token_ids: the new tokens, an end token included; all of a stream's events together give
            its `Completion.token_ids`.
        text: the new text, together `Completion.text`. A character may take several tokens: it
            comes with the last of them, so that the text may be empty, or come with no token when
            the stream ends in the middle of a character.
    """

    index: int
    token_ids: tuple[int, ...]
    text: str

    @property
    def stream(self) -> tuple[int, int]:
        """Round and index."""
        return 0, self.index


@dataclass(frozen=True, slots=True)
class CandidateDone:
    """A candidate, or a stream of `generate`, is finished."""

    index: int
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class RefineToken:
    """What a refinement has grown by, as in `CandidateToken`; `round` counts from 1."""

    round: int
    index: int
    token_ids: tuple[int, ...]
    text: str

    @property
    def stream(self) -> tuple[int, int]:
        """Round and index."""
        return self.round, self.index


@dataclass(frozen=True, slots=True)
class Final(Generic[ResultT]):
    """The last event of every request, finished, failed or aborted: what `Engine` would return."""

    result: ResultT


TokenEvent = CandidateToken | RefineToken
Event = Submitted | PhaseStarted | TokenEvent | CandidateDone | Final[ResultT]
