"""Turns the state of a live request into events: each look reports the news since the last."""

from __future__ import annotations

from typing import Any

from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.requests.generate import GenerateRequest
from gsr_engine.requests.request import Stream
from gsr_engine.requests.self_refine import SelfRefineRequest
from gsr_engine.serving.events import (
    CandidateDone,
    CandidateToken,
    Coalesce,
    Event,
    Final,
    PhaseStarted,
    RefineToken,
    Submitted,
)
from gsr_engine.text.detokenizer import Detokenizer

StreamingRequest = GenerateRequest | SelfRefineRequest


LOOK = 64
"""A look takes about this many tokens, or twice as many as the request has streams. So a reader
that was behind for long is caught up with in many looks, and no step waits for it. The rest of a
stream that is told in two pieces is one look: it costs what the stream's `Completion` costs."""


class RequestObserver:
    """Follows one request; the cost of a look is bounded, however long ago the last one was.

    Args:
        request_id: what `Submitted` reports.
        request: it is looked at between two steps.
        tokenizer: makes the texts.
        coalesce: the rounds that are told in two pieces.

    Attributes:
        told: whether everything was reported, `Final` among it.
    """

    def __init__(
        self,
        request_id: str,
        request: StreamingRequest,
        tokenizer: Tokenizer,
        coalesce: Coalesce = "none",
    ) -> None:
        self._request_id: str | None = request_id
        self._request = request
        self._tokenizer = tokenizer
        last = 0 if isinstance(request, GenerateRequest) else len(request.params.round_widths)
        self._num_coalesced = {"none": 0, "inner": last, "all": last + 1}[coalesce]
        self._num_rounds = 0
        self._streams: list[_StreamObserver] = []
        self.told = False

    def news(self) -> list[Event[Any]]:
        """The events since the last look, or the first of them; `Final` is the last event."""
        events: list[Event[Any]] = []
        if self._request_id is not None:
            events.append(Submitted(self._request_id, self._request.prompt))
            self._request_id = None
        self._look(events)
        # All events of a round come before the next round begins, and at most one begins in a look.
        rounds = _rounds(self._request)
        if not self._streams and self._num_rounds < len(rounds):
            phase = PhaseStarted(
                "refinement" if self._num_rounds else "candidates", self._num_rounds
            )
            events.append(phase)
            two_pieces = self._num_rounds < self._num_coalesced
            self._streams = [
                _StreamObserver(self._num_rounds, stream, self._tokenizer, two_pieces)
                for stream in rounds[self._num_rounds]
            ]
            self._num_rounds += 1
            self._look(events)
        all_rounds = not self._streams and self._num_rounds == len(rounds)
        self.told = all_rounds and self._request.finished
        if self.told:
            events.append(Final(self._request.result))
        return events

    def _look(self, events: list[Event[Any]]) -> None:
        limit = max(2, LOOK // max(1, len(self._streams)))
        over = self._request.finished
        waiting = 0
        for stream in self._streams:
            if stream.waits(over):
                waiting += 1
            else:
                events += stream.news(limit, over)
        if waiting < len(self._streams):
            self._streams = [stream for stream in self._streams if not stream.done]


class _StreamObserver:
    """Follows one stream.

    Args:
        round_index: of its round.
        stream: it is looked at between two steps.
        tokenizer: makes its text.
        two_pieces: whether what follows its first tokens is told at its end. A given candidate has
            no first tokens: it is told in looks, so that no step waits for a long one.

    Attributes:
        done: the stream is over, and all of it was reported.
    """

    def __init__(
        self, round_index: int, stream: Stream, tokenizer: Tokenizer, two_pieces: bool
    ) -> None:
        self._round = round_index
        self._stream = stream
        self._tokenizer = tokenizer
        self._two_pieces = two_pieces and stream.finish_reason != "given"
        self._detokenizer = Detokenizer(tokenizer)
        self._tail = ""
        self._num_given = 0
        self._num_seen = 0
        self.done = False

    def waits(self, over: bool) -> bool:
        """Whether nothing is to be told before its end; `over` as in `news`."""
        running = self._stream.finish_reason is None and not over
        return running and self._two_pieces and self._num_seen > 0

    def news(self, limit: int, over: bool) -> list[Event[Any]]:
        """The events of at most `limit` tokens; `over` if the request has its result."""
        stream, index = self._stream, self._stream.index
        ended = stream.finished or over
        whole = self._two_pieces and ended
        new = slice(self._num_seen, None if whole else self._num_seen + limit)
        token_ids = stream.segment.token_ids[new]
        logprobs, top = tuple(stream.logprobs[new]), tuple(stream.top_logprobs[new])
        content = token_ids[: max(0, stream.content_length - self._num_seen)]
        self._num_seen += len(token_ids)
        complete = self._num_seen == len(stream.segment.token_ids)
        self.done = complete and ended
        text = self._rest() if whole else self._text(content, complete)
        events: list[Event[Any]] = []
        if (token_ids or text) and self._round:
            events.append(RefineToken(self._round, index, tuple(token_ids), text, logprobs, top))
        elif token_ids or text:
            events.append(CandidateToken(index, tuple(token_ids), text, logprobs, top))
        if complete and stream.finish_reason is not None and not self._round:
            reasons = stream.finish_reason, stream.stop_reason
            events.append(CandidateDone(index, *reasons, stream.content_length))
        return events

    def _rest(self) -> str:
        """All the text that was not told yet, of a stream that has ended."""
        text = self._stream.stopped_text
        if text is None:
            content = self._stream.segment.token_ids[: self._stream.content_length]
            text = self._tokenizer.decode(content)
        return text[self._num_given :]

    def _text(self, content: list[int], complete: bool) -> str:
        """The new text that later tokens cannot change."""
        self._tail += self._detokenizer.push(content)
        stopped = self._stream.stopped_text
        if complete and stopped is not None:
            text = stopped[self._num_given :]
        elif complete and self._stream.finished:
            text = self._tail + self._detokenizer.flush()
        else:  # the last characters may be the beginning of a stop string: keep them back
            text = self._tail[: max(0, len(self._tail) - self._stream.hold_back)]
        self._tail = self._tail[len(text) :]
        self._num_given += len(text)
        return text


def _rounds(request: StreamingRequest) -> list[list[Stream]]:
    """The live streams by round: candidates (or the streams of `generate`), then refinements."""
    if isinstance(request, GenerateRequest):
        return [request.streams] if request.streams else []
    return request.rounds
