"""Reads the events of one request, and tells them as new output of its choices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gsr_engine.outputs import Completion, GenerateResult, TopLogprobs, Usage
from gsr_engine.serving.events import CandidateToken, Event, Final, Submitted, TokenEvent
from gsr_engine.serving.http.thinking import Thinking, ThinkingSplitter

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Piece:
    """New output of one choice.

    Attributes:
        index: which of the choices.
        text: of the answer.
        reasoning: of what comes before the answer: its thinking, or candidates.
        token_ids, logprobs, top_logprobs: the answer's new tokens, its thinking included.
        gsr: what it is, if it is not the answer.
    """

    index: int
    text: str = ""
    reasoning: str = ""
    token_ids: Sequence[int] = ()
    logprobs: Sequence[float] = ()
    top_logprobs: Sequence[TopLogprobs] = ()
    gsr: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A finished choice."""

    index: int
    completion: Completion


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended.

    Attributes:
        choices: what it answers; empty if it failed.
        usage: what it cost.
        reasoning_tokens: generated tokens that are in no answer.
        error: the reason if it failed, else None.
        aborted: whether it was stopped from outside.
        timed_out: whether its time limit ended it.
        costs: what `usage.gsr` says besides the phases.
        gsr: what the reply says of the refinement; None for a plain answer.
    """

    choices: list[Choice]
    usage: Usage
    reasoning_tokens: int
    error: str | None = None
    aborted: bool = False
    timed_out: bool = False
    costs: Mapping[str, Any] = field(default_factory=dict)
    gsr: Mapping[str, Any] | None = None


class Narrator(ABC, Generic[ResultT]):
    """Tells the events of one request.

    Args:
        thinking: how its answers think; None for raw text.
        first: the index of its first choice; a request for several prompts has several.

    Attributes:
        prompt_token_ids: its prompt, once the engine has taken it.
        generated: tokens so far, of all streams.
        outcome: how it ended; None until then.
    """

    def __init__(self, thinking: Thinking | None, first: int = 0) -> None:
        self._thinking = thinking
        self._first = first
        self._splitters: dict[int, ThinkingSplitter] = {}
        self.prompt_token_ids: Sequence[int] = ()
        self.generated = 0
        self.outcome: Outcome | None = None

    def read(self, event: Event[ResultT]) -> list[Piece]:
        """The new output that an event brings."""
        if isinstance(event, Submitted):
            self.prompt_token_ids = event.prompt_token_ids
            return []
        if isinstance(event, Final):
            pieces, self.outcome = self._finish(event.result)
            return pieces
        return self._tell(event)

    @abstractmethod
    def _tell(self, event: Event[Any]) -> list[Piece]:
        """The new output of an event that is neither the first nor the last."""

    @abstractmethod
    def _finish(self, result: ResultT) -> tuple[list[Piece], Outcome]:
        """The last output, and how the request ended."""

    def _answer(self, index: int, event: TokenEvent) -> Piece:
        """New tokens of a choice's answer."""
        reasoning, text = self._split(index, event.text)
        return Piece(
            self._first + index,
            text,
            reasoning,
            event.token_ids,
            event.logprobs,
            event.top_logprobs,
        )

    def _split(self, index: int, text: str, last: bool = False) -> tuple[str, str]:
        if self._thinking is None:
            return "", text
        if index not in self._splitters:
            self._splitters[index] = self._thinking.splitter()
        return self._splitters[index].push(text, last)

    def _rests(self, count: int) -> list[Piece]:
        """What was kept back of each choice, because it might have become a tag."""
        pieces = []
        for index in range(count):
            reasoning, text = self._split(index, "", last=True)
            if reasoning or text:
                pieces.append(Piece(self._first + index, text, reasoning))
        return pieces

    def _visible(self, completion: Completion) -> int:
        """How many tokens of an answer are no thinking."""
        thought = 0 if self._thinking is None else self._thinking.count(completion.content_ids)
        return len(completion.token_ids) - thought


class PlainNarrator(Narrator[GenerateResult]):
    """Tells the n streams of one prompt."""

    def _tell(self, event: Event[GenerateResult]) -> list[Piece]:
        if not isinstance(event, CandidateToken):
            return []
        self.generated += len(event.token_ids)
        return [self._answer(event.index, event)]

    def _finish(self, result: GenerateResult) -> tuple[list[Piece], Outcome]:
        done = result.completions
        choices = [Choice(self._first + one.index, one) for one in done]
        visible = sum(map(self._visible, done))
        reasons = {one.finish_reason for one in done}
        outcome = Outcome(
            choices,
            result.usage,
            result.usage.completion_tokens - visible,
            result.error,
            aborted="abort" in reasons,
            timed_out="timeout" in reasons,
        )
        return self._rests(len(done)), outcome
