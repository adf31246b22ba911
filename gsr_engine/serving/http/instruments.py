"""What is counted and timed of every request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeVar

from prometheus_client import Counter, Histogram
from prometheus_client.core import Metric

from gsr_engine.serving.http.engine_metrics import MODEL

Method = Literal["plain", "selfref"]
Ending = Literal["ok", "length", "timeout", "aborted", "error", "refused", "unavailable"]
"""How a request ended, in the label `outcome`. With an answer: `ok`, or cut at its `length` or
`timeout`. Without one: `aborted` by its client, an `error` of the engine, `refused` because it is a
bad one, `unavailable` because this replica could not take it."""
Phase = Literal["answer", "candidate", "refinement"]
"""What a stream writes. An answer is that of a plain request."""

InstrumentT = TypeVar("InstrumentT", Counter, Histogram)

_LONG = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280)
_SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)


class Instruments:
    """Counters and histograms of the requests to one model; histograms are in seconds.

    Attributes:
        requests: finished requests by route, method, outcome and HTTP status.
        prompt_tokens: by method.
        generated_tokens: by phase, as they are read from the engine.
        duration: answered requests from arrival to the end, by method.
        queue: from submission to the first KV pages, by method.
        first_token: from arrival to the first token of any stream, by method.
        first_refined_token: from arrival to the first token of a refinement, by method.
        phase_duration: from the start of a phase to its end, by phase.
        token_time: seconds per token of one stream after its first, by phase.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._all: list[Counter | Histogram] = []
        self.requests = self._counter(
            "gsr_requests", "Finished requests.", "route", "method", "outcome", "status"
        )
        self.prompt_tokens = self._counter("gsr_prompt_tokens", "Tokens of prompts.", "method")
        self.generated_tokens = self._counter("gsr_generated_tokens", "Tokens written.", "phase")
        self.duration = self._histogram(
            "gsr_request_duration_seconds",
            "Answered requests, from arrival to the end.",
            "method",
            _LONG,
        )
        self.queue = self._histogram(
            "gsr_request_queue_seconds", "From submission to the first KV pages.", "method", _SHORT
        )
        self.first_token = self._histogram(
            "gsr_time_to_first_token_seconds",
            "From arrival to the first token of any stream.",
            "method",
            _SHORT,
        )
        self.first_refined_token = self._histogram(
            "gsr_time_to_first_refined_token_seconds",
            "From arrival to the first token of a refinement.",
            "method",
            _LONG,
        )
        self.phase_duration = self._histogram(
            "gsr_phase_duration_seconds", "From the start of a phase to its end.", "phase", _LONG
        )
        self.token_time = self._histogram(
            "gsr_time_per_output_token_seconds",
            "Seconds per token of one stream, after its first.",
            "phase",
            _TOKEN,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        counter = Counter(name, text, (MODEL, *labels), registry=None)
        self._all.append(counter)
        return counter

    def _histogram(self, name: str, text: str, label: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(name, text, (MODEL, label), buckets=buckets, registry=None)
        self._all.append(histogram)
        return histogram

    def of(self, instrument: InstrumentT, *labels: str) -> InstrumentT:
        """The series of an instrument with these labels."""
        return instrument.labels(self._model, *labels)

    def families(self) -> Iterator[Metric]:
        """What they hold now."""
        for instrument in self._all:
            for family in instrument.collect():
                # The time of creation, as a gauge beside each counter, is of no use to anybody.
                family.samples = [
                    one for one in family.samples if not one.name.endswith("_created")
                ]
                yield family
