"""Turns what a live request holds into events: each look reports what is new since the last."""

from __future__ import annotations

from typing import Any

from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.requests.generate import GenerateRequest
from gsr_engine.requests.request import Stream
from gsr_engine.requests.self_refine import SelfRefineRequest
from gsr_engine.serving.events import (
    CandidateDone,
    CandidateToken,
    Event,
    Final,
    PhaseStarted,
    RefineToken,
    Submitted,
)
from gsr_engine.text.detokenizer import Detokenizer

StreamingRequest = GenerateRequest | SelfRefineRequest


class RequestObserver:
    """Follows one request; a look costs as much as the request has streams that go on."""

    def __init__(self, request_id: str, request: StreamingRequest, tokenizer: Tokenizer) -> None:
        self._request_id: str | None = request_id
        self._request = request
        self._tokenizer = tokenizer
        self._num_rounds = 0
        self._streams: list[_StreamObserver] = []

    def news(self) -> list[Event[Any]]:
        """What happened since the last look; after `Final` there is nothing more."""
        events: list[Event[Any]] = []
        if self._request_id is not None:
            events.append(Submitted(self._request_id))
            self._request_id = None
        # Before a round begins, that before it has said all.
        self._look(self._streams, events)
        for streams in _rounds(self._request)[self._num_rounds :]:
            phase = PhaseStarted(
                "refinement" if self._num_rounds else "candidates", self._num_rounds
            )
            events.append(phase)
            fresh = [_StreamObserver(self._num_rounds, one, self._tokenizer) for one in streams]
            self._look(fresh, events)
            self._streams += fresh
            self._num_rounds += 1
        self._streams = [stream for stream in self._streams if not stream.done]
        if self._request.result is not None:
            events.append(Final(self._request.result))
        return events

    @staticmethod
    def _look(streams: list[_StreamObserver], events: list[Event[Any]]) -> None:
        for stream in streams:
            events += stream.news()


class _StreamObserver:
    """Follows one stream."""

    def __init__(self, round_index: int, stream: Stream, tokenizer: Tokenizer) -> None:
        self._round = round_index
        self._stream = stream
        self._detokenizer = Detokenizer(tokenizer)
        self._tail = ""
        self._num_given = 0
        self._num_seen = 0
        self.done = False

    def news(self) -> list[Event[Any]]:
        stream, index = self._stream, self._stream.index
        token_ids = stream.segment.token_ids[self._num_seen :]
        content = token_ids[: max(0, stream.content_length - self._num_seen)]
        self._num_seen += len(token_ids)
        self.done = stream.finished
        text = self._text(content)
        events: list[Event[Any]] = []
        if (token_ids or text) and self._round:
            events.append(RefineToken(self._round, index, tuple(token_ids), text))
        elif token_ids or text:
            events.append(CandidateToken(index, tuple(token_ids), text))
        if stream.finish_reason is not None and not self._round:
            events.append(CandidateDone(index, stream.finish_reason))
        return events

    def _text(self, content: list[int]) -> str:
        """The new text that is final."""
        self._tail += self._detokenizer.push(content)
        stopped = self._stream.stopped_text
        if stopped is not None:
            text = stopped[self._num_given :]
        elif self.done:
            text = self._tail + self._detokenizer.flush()
        else:  # the last characters may be the beginning of a stop string
            text = self._tail[: max(0, len(self._tail) - self._stream.hold_back)]
        self._tail = self._tail[len(text) :]
        self._num_given += len(text)
        return text


def _rounds(request: StreamingRequest) -> list[list[Stream]]:
    """The live streams: candidates (or the streams of `generate`), then what refines them."""
    if isinstance(request, GenerateRequest):
        return [request.streams] if request.streams else []
    return request.rounds
