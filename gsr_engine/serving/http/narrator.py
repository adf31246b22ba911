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
        text: of the answer, or of the prompt before it.
        reasoning: of what comes before the answer: its thinking, or candidates.
        token_ids, logprobs, top_logprobs: the tokens of the text, thinking included. A prompt's
            first token has None for both of the others.
        gsr: what it is, if it is not the answer.
        echoed: whether it is the prompt.
    """

    index: int
    text: str = ""
    reasoning: str = ""
    token_ids: Sequence[int] = ()
    logprobs: Sequence[float | None] = ()
    top_logprobs: Sequence[TopLogprobs | None] = ()
    gsr: Mapping[str, Any] | None = None
    echoed: bool = False


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


class Answers:
    """The answers of one request, whose thinking is told apart from what follows it.

    Args:
        thinking: how they think; None for raw text.
        first: the index of the first choice; a request for several prompts has several firsts.
    """

    def __init__(self, thinking: Thinking | None, first: int = 0) -> None:
        self._thinking = thinking
        self.first = first
        self._splitters: dict[int, ThinkingSplitter] = {}

    def new(self, index: int, event: TokenEvent) -> Piece:
        """New tokens of an answer."""
        reasoning, text = self._split(index, event.text)
        tokens = event.token_ids, event.logprobs, event.top_logprobs
        return Piece(self.first + index, text, reasoning, *tokens)

    def whole(self, index: int, completion: Completion) -> Piece:
        """A finished answer of which nothing was told."""
        reasoning, text = self._split(index, completion.text)
        tokens = completion.token_ids, completion.logprobs, completion.top_logprobs or ()
        return Piece(self.first + index, text, reasoning, *tokens)

    def rests(self, count: int) -> list[Piece]:
        """What was kept back of so many answers, because it might have become a tag."""
        pieces = []
        for index in range(count):
            reasoning, text = self._split(index, "", last=True)
            if reasoning or text:
                pieces.append(Piece(self.first + index, text, reasoning))
        return pieces

    def choices(self, completions: Sequence[Completion]) -> list[Choice]:
        """The finished answers."""
        return [Choice(self.first + place, one) for place, one in enumerate(completions)]

    def num_visible(self, completions: Sequence[Completion]) -> int:
        """How many tokens of the answers are no thinking."""
        thought = 0
        if self._thinking is not None:
            thought = sum(self._thinking.count(one.content_ids) for one in completions)
        return sum(len(one.token_ids) for one in completions) - thought

    def _split(self, index: int, text: str, last: bool = False) -> tuple[str, str]:
        if self._thinking is None:
            return "", text
        if index not in self._splitters:
            self._splitters[index] = self._thinking.splitter()
        return self._splitters[index].push(text, last)


class Narrator(ABC, Generic[ResultT]):
    """Tells the events of one request.

    Attributes:
        answers: its choices.
        prompt_token_ids: its prompt, once the engine has taken it.
        generated: tokens so far, of all streams.
        outcome: how it ended; None until then.
    """

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.prompt_token_ids: Sequence[int] = ()
        self.generated = 0
        self.outcome: Outcome | None = None

    def read(self, event: Event[ResultT]) -> list[Piece]:
        """The new output that an event brings."""
        if isinstance(event, Submitted):
            self.prompt_token_ids = event.prompt_token_ids
            return []
        if isinstance(event, Final):
            pieces, self.outcome = self.finish(event.result)
            return pieces
        return self.tell(event)

    @abstractmethod
    def tell(self, event: Event[ResultT]) -> list[Piece]:
        """The new output of an event that is neither the first nor the last."""

    @abstractmethod
    def finish(self, result: ResultT) -> tuple[list[Piece], Outcome]:
        """The last output, and how the request ended."""


class PlainNarrator(Narrator[GenerateResult]):
    """Tells the n streams of one prompt."""

    def tell(self, event: Event[GenerateResult]) -> list[Piece]:
        """New tokens of a choice."""
        if not isinstance(event, CandidateToken):
            return []
        self.generated += len(event.token_ids)
        return [self.answers.new(event.index, event)]

    def finish(self, result: GenerateResult) -> tuple[list[Piece], Outcome]:
        """The n completions."""
        done, usage = result.completions, result.usage
        reasons = {one.finish_reason for one in done}
        outcome = Outcome(
            self.answers.choices(done),
            usage,
            usage.completion_tokens - self.answers.num_visible(done),
            result.error,
            aborted="abort" in reasons or (not done and result.error is None),
            timed_out="timeout" in reasons,
        )
        return self.answers.rests(len(done)), outcome
