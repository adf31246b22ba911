"""Tells the events of a selfRef@k: candidates as the client wants them, then the refinements."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from gsr_engine.outputs import ABORTED, Completion, FinishReason, RefineResult
from gsr_engine.serving.events import (
    CandidateDone,
    CandidateToken,
    Event,
    PhaseStarted,
    RefineToken,
    TokenEvent,
)
from gsr_engine.serving.http.narrator import Answers, Narrator, Outcome, Piece
from gsr_engine.text.answers import same_answer
from gsr_engine.text.prompts import Prompts

Mode = Literal["final", "phases", "all"]
"""What of the candidates a reply carries: nothing, each one whole, or every token at once."""


@dataclass(slots=True)
class _Written:
    """What a stream has written so far."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def add(self, event: TokenEvent) -> None:
        self.text += event.text
        self.token_ids += event.token_ids
        self.logprobs += event.logprobs

    @property
    def mean_logprob(self) -> float | None:
        """Per token, at temperature 1; None for a given candidate."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else None


class RefinedNarrator(Narrator[RefineResult]):
    """Tells the candidates, the rounds and the refinements of one problem.

    Args:
        answers: its choices.
        prompts: those of the request, which find answers.
        mode: what of the candidates is told.
        k: how many candidates there are.
        widths: refinements in each round.
        voted: whether the refinements of the last round are put to a vote. Its result is the one
            choice; otherwise each of them is a choice.
        given: whether the client brought the candidates.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        prompts: Prompts,
        mode: Mode,
        k: int,
        widths: tuple[int, ...],
        voted: bool,
        given: bool,
    ) -> None:
        super().__init__(answers)
        self._prompts, self._mode, self._given = prompts, mode, given
        self._k, self._widths, self._voted = k, widths, voted
        self._streams: dict[tuple[int, int], _Written] = {}
        self._stated: dict[int, str] = {}  # by the first candidate that did, each answer

    def tell(self, event: Event[RefineResult]) -> list[Piece]:
        """New tokens of a refinement; and of the candidates, what the client wants of them."""
        match event:
            case CandidateToken():
                self.generated += 0 if self._given else len(event.token_ids)
                return self._news("candidate", {"candidate": event.index}, event)
            case CandidateDone():
                return self._candidate_done(event)
            case PhaseStarted():
                return self._phase_started(event)
            case RefineToken():
                self.generated += len(event.token_ids)
                if event.round < len(self._widths):
                    names = {"round": event.round, "refinement": event.index}
                    return self._news("refinement", names, event)
                if not self._voted:
                    return [self.answers.new(event.index, event)]
        return []

    def _written(self, stream: tuple[int, int]) -> _Written:
        return self._streams.setdefault(stream, _Written())

    def _news(self, phase: str, names: dict[str, int], event: TokenEvent) -> list[Piece]:
        if self._mode != "final":
            self._written(event.stream).add(event)
        if self._mode != "all":
            return []
        gsr = {"phase": phase, "event": "tokens", **names}
        return [Piece(self.answers.first, reasoning=event.text, gsr=gsr)]

    def _candidate_done(self, event: CandidateDone) -> list[Piece]:
        if self._mode == "final":
            return []
        written = self._written((0, event.index))
        text = ""
        if self._mode == "phases":
            text = f"Candidate {event.index + 1} of {self._k}\n\n{written.text.strip()}\n\n"
        done = self._candidate(event.index, written, event.finish_reason, event.content_length)
        same_as = self._same_as(done["answer"])
        if same_as is None and done["answer"] is not None:
            self._stated[event.index], same_as = done["answer"], event.index
        gsr = {"phase": "candidate", "event": "candidate_done", **done, "same_as": same_as}
        return [Piece(self.answers.first, reasoning=text, gsr=gsr)]

    def _candidate(
        self, index: int, written: _Written, reason: FinishReason, content_length: int
    ) -> dict[str, Any]:
        """What is said of a finished candidate."""
        completion = Completion(
            index, written.text, written.token_ids, written.logprobs, reason, content_length
        )
        return {
            "candidate": index,
            "answer": self._prompts.text_and_answer(completion)[1],
            "mean_logprob": written.mean_logprob,
            "tokens": len(written.token_ids),
            "finish_reason": reason,
        }

    def _same_as(self, answer: str | None) -> int | None:
        """The candidate that was the first to state this answer, if one has."""
        found = (index for index, stated in self._stated.items() if same_answer(answer, stated))
        return next(found, None)

    def _phase_started(self, event: PhaseStarted) -> list[Piece]:
        if self._mode == "final":
            return []
        pieces = []
        if self._mode == "phases" and event.round > 1:
            pieces += self._whole_round(event.round - 1)
        gsr = {"phase": "candidate" if event.round == 0 else "refinement"}
        return [
            *pieces,
            Piece(self.answers.first, gsr={**gsr, "event": "phase_started", "round": event.round}),
        ]

    def _whole_round(self, number: int) -> list[Piece]:
        """The refinements of a round that later ones read."""
        pieces = []
        for index in range(self._widths[number - 1]):
            head = f"Round {number}, refinement {index + 1} of {self._widths[number - 1]}"
            text = f"{head}\n\n{self._written((number, index)).text.strip()}\n\n"
            gsr = {"phase": "refinement", "event": "refinement_done"}
            where = {"round": number, "refinement": index}
            pieces.append(Piece(self.answers.first, reasoning=text, gsr={**gsr, **where}))
        return pieces

    def finish(self, result: RefineResult) -> tuple[list[Piece], Outcome]:
        """The refinements of the last round, or the one that the vote chose."""
        done, pieces, usage = list[Completion](), list[Piece](), result.usage
        if result.refinement is not None:
            done = [result.refinement] if self._voted else result.rounds[-1]
        if self._voted:
            pieces += [self.answers.whole(index, one) for index, one in enumerate(done)]
        reasons = {one.finish_reason for one in done or result.candidates}
        outcome = Outcome(
            choices=self.answers.choices(done),
            usage=usage,
            reasoning_tokens=usage.completion_tokens - self.answers.num_visible(done),
            error=result.error,
            aborted=result.error == ABORTED,
            timed_out="timeout" in reasons,
            costs={"k": self._k, "k_effective": result.k_effective},
            gsr=self._told(result),
        )
        return pieces + self.answers.rests(len(done)), outcome

    def _told(self, result: RefineResult) -> dict[str, Any]:
        """What the reply says of the refinement."""
        told: dict[str, Any] = {
            "answer": result.answer,
            "k_effective": result.k_effective,
            "used": result.used,
            "summary_tokens": result.summary_tokens,
            "num_shortened": result.num_shortened,
            "num_stopped": result.num_stopped,
        }
        if self._mode != "final" and result.refinement is not None:
            last = result.refinement
            told |= {
                "same_as": self._same_as(result.answer),
                "tokens": len(last.token_ids),
                "mean_logprob": last.logprob / len(last.logprobs) if last.logprobs else None,
                "finish_reason": last.finish_reason,
            }
        if self._mode != "final":
            told["candidates"] = [
                {
                    **self._candidate(
                        one.index,
                        _Written(one.text, one.token_ids, one.logprobs),
                        one.finish_reason,
                        one.content_length,
                    ),
                    "text": one.text,
                }
                for one in result.candidates
            ]
        return told
