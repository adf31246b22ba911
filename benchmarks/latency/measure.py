"""Measures the cells of a grid that are not measured yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from benchmarks.latency.cell import Cell, Measured, Streams
from benchmarks.latency.journal import Journal
from benchmarks.latency.load import drive
from benchmarks.latency.system import Answerer, System
from benchmarks.latency.timed_answer import Moments, TimedAnswer
from benchmarks.peers.run import PeerSkipped
from benchmarks.peers.servers import NotAnswered
from benchmarks.steadiness import time_product
from benchmarks.tasks.task import BenchmarkProblem
from gsr_engine.environment import describe_machine
from gsr_engine.evaluation.grader import Grader
from gsr_engine.speed.refine_speed import Lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What is asked, and how answers are graded.

    Attributes:
        problems: of every length of the grid; the last one of each warms a system up.
        max_tokens: most tokens of a stream of natural length.
        seed: of problems, arrivals and draws.
        grader: of problems of natural length; None grades nothing.
    """

    problems: Mapping[Lengths | None, Sequence[BenchmarkProblem]]
    max_tokens: int
    seed: int
    grader: Grader | None

    def streams(self, cell: Cell) -> Streams:
        """How the streams of a cell end; each time with a salt of its own."""
        natural = Lengths(0, self.max_tokens, self.max_tokens)
        lengths = cell.lengths or natural
        return Streams(
            k=cell.k,
            candidate=lengths.candidate,
            refine=lengths.refine,
            fixed=cell.lengths is not None,
            salt=uuid4().hex,
        )


@dataclass(slots=True)
class Grid:
    """A grid that is being measured.

    Attributes:
        systems: by name.
        questions: for all cells.
        journal: keeps what is measured.
        note: is called with a line about what could not be measured.
        time_product: as of `benchmarks.steadiness`.
        left_out: why a cell has no figures.
    """

    systems: Mapping[str, System]
    questions: Questions
    journal: Journal
    note: Callable[[str], object]
    time_product: Callable[[], float] = time_product
    left_out: dict[Cell, str] = field(default_factory=dict)

    def measure(
        self, cells: Sequence[Cell], on_answer: Callable[[Cell, int], object]
    ) -> list[Measured]:
        """What the cells gave, now or before.

        A system that cannot run is left out, and so is a cell that a system refuses; the others
        go on.

        Args:
            cells: in this order.
            on_answer: is called with a cell and the number of problems that were answered since;
                all at once for a cell that was measured before or is left out.
        """
        skipped: dict[str, str] = {}
        found = []
        for cell in cells:
            measured, count = self.journal.get(cell), len(self._problems(cell))
            if measured is None and cell.system not in skipped:
                answered = _Counted(cell, on_answer)
                try:
                    measured = self._measured(cell, answered)
                    self.journal.add(measured)
                except PeerSkipped as reason:
                    skipped[cell.system] = str(reason)
                    self.note(f"{cell.system}: {reason}")
                except NotAnswered as reason:
                    self.left_out[cell] = str(reason)
                    self.note(f"{cell}: {reason}")
                count -= answered.count
            on_answer(cell, count)
            if measured is not None:
                found.append(measured)
            elif cell.system in skipped:
                self.left_out[cell] = skipped[cell.system]
        return found

    def _problems(self, cell: Cell) -> Sequence[BenchmarkProblem]:
        return self.questions.problems[cell.lengths][:-1]

    def _measured(self, cell: Cell, on_answer: Callable[[], object]) -> Measured:
        before = self.time_product()
        answers, elapsed, pages = asyncio.run(self._drive(cell, on_answer))
        after = self.time_product()
        if (grader := self.questions.grader) is not None and cell.lengths is None:
            golds = [one.gold for one in self._problems(cell)]
            answers = [one.graded(grader, gold) for one, gold in zip(answers, golds, strict=True)]
        return Measured(
            cell=cell,
            answers=answers,
            elapsed=elapsed,
            peak_pages=pages,
            product_seconds=max(before, after),
            machine=describe_machine(),
        )

    async def _drive(
        self, cell: Cell, on_answer: Callable[[], object]
    ) -> tuple[list[TimedAnswer], float, int | None]:
        *texts, first = [one.text for one in self.questions.problems[cell.lengths]]
        seed = self.questions.seed
        async with self.systems[cell.system].open(self.questions.streams(cell)) as answerer:
            await _warm_up(answerer, cell, first, seed + len(texts))
            answers, elapsed = await drive(answerer, texts, cell, seed, on_answer)
            return answers, elapsed, await answerer.peak_pages()


async def _warm_up(answerer: Answerer, cell: Cell, problem: str, seed: int) -> None:
    """As many at once as a closed loop has: a library compiles for its batches. Else one."""
    asks = (
        answerer.answer(problem, seed + i, Moments(cell.k, 0.0)) for i in range(cell.at_once or 1)
    )
    await asyncio.gather(*asks)


class _Counted:
    """Counts the answers of a cell while they come."""

    def __init__(self, cell: Cell, on_answer: Callable[[Cell, int], object]) -> None:
        self._cell, self._on_answer, self.count = cell, on_answer, 0

    def __call__(self) -> None:
        self.count += 1
        self._on_answer(self._cell, 1)
