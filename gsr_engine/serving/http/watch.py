"""The watch on one request: its times, for the metrics and for its line in the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gsr_engine.outputs import Usage
from gsr_engine.serving.events import CandidateToken, Event, PhaseStarted, RefineToken
from gsr_engine.serving.http.instruments import Ending, Method, Phase
from gsr_engine.serving.http.metrics import Metrics
from gsr_engine.serving.http.request_log import RequestLog

_ANSWERED: tuple[Ending, ...] = ("ok", "length", "timeout")


@dataclass(slots=True)
class _StreamClock:
    """The times of one stream; tokens that arrive together have one time."""

    first_at: float
    num_first: int
    last_at: float
    count: int

    @property
    def seconds_per_token(self) -> float | None:
        """After the first tokens; None if there are no others."""
        later = self.count - self.num_first
        return (self.last_at - self.first_at) / later if later else None


class Watch:
    """Times one request from its arrival to its end.

    `event` takes every event of `AsyncEngine` as it comes. `end` must be called exactly once,
    however the request ends.
    """

    def __init__(
        self,
        metrics: Metrics,
        log: RequestLog,
        *,
        route: str,
        method: Method,
        request_id: str,
        session_id: str | None = None,
        hints: Mapping[str, str] | None = None,
        streams: int,
        given: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin at the arrival of a request.

        Args:
            metrics: what is counted into.
            log: what gets the line.
            route: the path, e.g. "/v1/chat/completions".
            method: how it is answered.
            request_id: its id, as its client knows it.
            session_id: of `X-Session-ID`.
            hints: what routers said about it; logged, not used.
            streams: how many streams it starts with (k or n).
            given: whether its client brought the candidates, which are not generated then.
            clock: returns seconds.
        """
        self._instruments, self._log, self._clock = metrics.instruments, log, clock
        self._route, self._method, self._given = route, method, given
        self._fields: dict[str, Any] = {
            "request_id": request_id,
            "session_id": session_id,
            "route": route,
            "method": method,
            "streams": streams,
            "hints": dict(hints) if hints else None,
        }
        self._began = clock()
        self._first: dict[Phase, float] = {}  # seconds to the first token of each phase
        self._phases: dict[Phase, float] = {}  # when each began
        self._streams: dict[tuple[int, int], _StreamClock] = {}

    def event(self, event: Event[Any]) -> None:
        """Take the time of an event."""
        now = self._clock()
        if isinstance(event, PhaseStarted):
            phase = self._phase(event.round)
            if phase is not None:
                self._phases.setdefault(phase, now)
        elif isinstance(event, CandidateToken | RefineToken) and event.token_ids:
            self._tokens(event.stream, len(event.token_ids), now)

    def _phase(self, round_index: int) -> Phase | None:
        """What the streams of a round write; None for candidates that nobody generated."""
        if round_index:
            return "refinement"
        if self._method == "plain":
            return "answer"
        return None if self._given else "candidate"

    def _tokens(self, stream: tuple[int, int], count: int, now: float) -> None:
        phase = self._phase(stream[0])
        if phase is None:
            return
        self._first.setdefault(phase, now - self._began)
        self._instruments.of(self._instruments.generated_tokens, phase).inc(count)
        clock = self._streams.get(stream)
        if clock is None:
            self._streams[stream] = _StreamClock(now, count, now, count)
        else:
            clock.last_at, clock.count = now, clock.count + count

    def end(
        self,
        outcome: Ending,
        status: int,
        usage: Usage | None = None,
        *,
        error: str | None = None,
        details: Mapping[str, Any] | None = None,
        texts: Mapping[str, Any] | None = None,
    ) -> None:
        """Count the request and write its line.

        Args:
            outcome: how it ended.
            status: of the response.
            usage: what it cost; None if the engine did not take it.
            error: what was wrong.
            details: what else its line should say, e.g. `{"k_effective": 3}`.
            texts: of prompt and reply; they are logged only if the log is told to.
        """
        now, instruments = self._clock(), self._instruments
        instruments.of(instruments.requests, self._route, self._method, outcome, str(status)).inc()
        phases = self._phase_seconds(now)
        if outcome in _ANSWERED:
            self._observe(now - self._began, phases)
        if usage is not None:
            instruments.of(instruments.queue, self._method).observe(usage.queue_seconds)
            instruments.of(instruments.prompt_tokens, self._method).inc(usage.prompt_tokens)
        fields = {
            **self._fields,
            "outcome": outcome,
            "status": status,
            **_costs(usage),
            "seconds": now - self._began,
            "first_token_seconds": min(self._first.values(), default=None),
            "first_refined_token_seconds": self._first.get("refinement"),
            **{f"{phase}_seconds": seconds for phase, seconds in phases.items()},
            "error": error,
            **(details or {}),
        }
        self._log.write(fields, texts or {})

    def _observe(self, duration: float, phases: Mapping[Phase, float]) -> None:
        instruments = self._instruments
        instruments.of(instruments.duration, self._method).observe(duration)
        if self._first:
            first = min(self._first.values())
            instruments.of(instruments.first_token, self._method).observe(first)
        if "refinement" in self._first:
            series = instruments.of(instruments.first_refined_token, self._method)
            series.observe(self._first["refinement"])
        for phase, seconds in phases.items():
            instruments.of(instruments.phase_duration, phase).observe(seconds)
        for (round_index, _), clock in self._streams.items():
            per_token, of_phase = clock.seconds_per_token, self._phase(round_index)
            if per_token is not None and of_phase is not None:
                instruments.of(instruments.token_time, of_phase).observe(per_token)

    def _phase_seconds(self, now: float) -> dict[Phase, float]:
        """How long each phase took; it ends where the next one begins."""
        starts = list(self._phases.values())
        ends = [*starts[1:], now]
        return dict(
            zip(self._phases, (e - s for s, e in zip(starts, ends, strict=False)), strict=True)
        )


def _costs(usage: Usage | None) -> dict[str, Any]:
    if usage is None:
        return {}
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "computed_tokens": sum(phase.tokens_computed for phase in usage.phases.values()),
        "reused_tokens": sum(phase.tokens_reused for phase in usage.phases.values()),
        "peak_pages": usage.peak_pages,
        "queue_seconds": usage.queue_seconds,
    }
