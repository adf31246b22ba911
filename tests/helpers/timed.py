"""Answers whose moments a test states, and systems that give them at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.latency.cell import Cell, Measured, Streams
from benchmarks.latency.timed_answer import Moments, TimedAnswer

MACHINE = {"date": "2026-11-29", "cpu": "made by hand"}


def timed(seconds: float = 4.0, **changed: Any) -> TimedAnswer:
    """Two candidates of ten tokens and a refinement of five, phase by phase a fourth each."""
    quarter = seconds / 4
    values: dict[str, Any] = {
        "firsts": [quarter, 1.5 * quarter],
        "lasts": [1.75 * quarter, 2 * quarter],
        "refined_first": 3 * quarter,
        "refined_last": seconds,
        "candidate_tokens": 20,
        "refine_tokens": 5,
        **changed,
    }
    return TimedAnswer(**values)


def graded(right: bool, seconds: float = 4.0, candidates: Sequence[bool] = (True, False)) -> Any:
    """The same with grades; wrong candidates state different answers."""
    answers = ["right" if one else f"wrong {i}" for i, one in enumerate(candidates)]
    return timed(
        seconds, candidate_answers=answers, candidates_correct=list(candidates), correct=right
    )


def measured(cell: Cell, answers: Sequence[TimedAnswer], **changed: Any) -> Measured:
    """A cell that took ten seconds on a steady machine."""
    values: dict[str, Any] = {
        "elapsed": 10.0,
        "peak_pages": 7,
        "product_seconds": 0.01,
        "machine": MACHINE,
        **changed,
    }
    return Measured(cell=cell, answers=list(answers), **values)


@dataclass
class InstantSystem:
    """Answers every problem with its own text, and remembers what it was asked.

    Attributes:
        name: its own.
        error: raised for every problem instead, if there is one; an `opening_error` before any.
        asked: problems and seeds, cell by cell.
        most_at_once: problems that it had at the same time.
    """

    name: str
    error: BaseException | None = None
    opening_error: BaseException | None = None
    asked: list[list[tuple[str, int]]] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0

    @asynccontextmanager
    async def open(self, streams: Streams) -> AsyncIterator[InstantSystem]:
        """It is its own answerer."""
        if self.opening_error is not None:
            raise self.opening_error
        self.asked.append([])
        yield self

    async def answer(self, problem: str, seed: int, moments: Moments) -> TimedAnswer:
        self.asked[-1].append((problem, seed))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.error is not None:
            raise self.error
        return timed(candidate_answers=[problem, None], answer=problem)

    async def peak_pages(self) -> int | None:
        return None
