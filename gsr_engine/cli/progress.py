"""How far a request is, on stderr while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gsr_engine.requests.generate import GenerateRequest
from gsr_engine.requests.request import Request, Stream
from gsr_engine.requests.self_refine import SelfRefineRequest

SECONDS_BETWEEN_LINES = 10.0
"""Where there is no terminal."""


class Progress:
    """One live line on a terminal, elsewhere a plain line from time to time.

    Attributes:
        seconds: since the request began.
    """

    def __init__(
        self,
        request: Request[Any],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._request = request
        self._clock = clock
        self._begun = self._told = clock()
        console = Console(stderr=True)
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                console=console,
                get_renderable=lambda: Text(self.line(), style="dim", no_wrap=True),
                refresh_per_second=4,
                transient=True,
            )

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._begun

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def step(self, _finished: int = 0) -> None:
        """Called after each step of the engine."""
        if self._live is None and self._clock() - self._told >= SECONDS_BETWEEN_LINES:
            self._told = self._clock()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """What is being written, how much of it there is, and how fast."""
        rounds = _rounds(self._request)
        name = "streams" if isinstance(self._request, GenerateRequest) else "candidates"
        written = sum(len(stream.segment) for streams in rounds for stream in streams)
        streams = rounds[-1] if rounds else []
        tokens = sum(len(stream.segment) for stream in streams)
        if len(rounds) > 1:
            name = "refinement" if len(streams) == 1 else f"refinements (round {len(rounds) - 1})"
        done = sum(stream.finished for stream in streams)
        if not tokens:
            return f"{name}: reading the prompt, {self.seconds:.0f} s"
        count = f", {done} of {len(streams)} done" if len(streams) > 1 else ""
        return f"{name}: {tokens:,} tokens{count}, {speed(written, self.seconds)}"


def speed(tokens: int, seconds: float) -> str:
    """Tokens per second in words."""
    return f"{tokens / seconds:,.1f} tokens/s" if seconds else "0 tokens/s"


def _rounds(request: Request[Any]) -> list[list[Stream]]:
    """The streams by round: those of `generate`, or the candidates and then the refinements."""
    if isinstance(request, GenerateRequest):
        return [request.streams] if request.streams else []
    return request.rounds if isinstance(request, SelfRefineRequest) else []
