"""The progress of an accuracy run, as lines of the log."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.accuracy.generator import Generator
from benchmarks.samples.sample import Solution
from gsr_engine.outputs import CUT
from train.command import log
from train.generation.progress import progress_line
from train.generation.worker import Tally


class AccuracyProgress:
    """Logs a line every `every` seconds.

    A solution counts as soon as it is finished, its tokens as soon as they are generated.

    Args:
        generators: generate them.
        max_tokens: the longest solution.
        total: solutions of the whole run.
        done: those of them that earlier runs have drawn.
        every: seconds between two lines.
    """

    def __init__(
        self,
        generators: Sequence[Generator],
        max_tokens: int,
        total: int,
        done: int,
        every: float = 10.0,
    ) -> None:
        self._generators = generators
        self._max_tokens = max_tokens
        self._total = total
        self._done = done
        self._every = every
        self._begun = self._logged = time.monotonic()
        self._tokens_before = self._generated()
        self._tally = Tally()
        self._method = ""

    def begin(self, method: str, problems: int) -> None:
        """Name what is generated from now on."""
        self._method = method
        log.info("%s: %s problems", method, f"{problems:,}")

    def count(self, solutions: Sequence[Solution], expected: int = 1, unseen: int = 0) -> None:
        """Some solutions are finished; of those that were `expected`, the others failed.

        `unseen` are tokens of others that led to these; they count as tokens alone.
        """
        tally = self._tally
        tally.samples += expected
        tally.failed += expected - len(solutions)
        tally.tokens += unseen
        for one in solutions:
            tally.tokens += one.tokens
            tally.failed += one.finish_reason == "error"
            tally.cut += one.finish_reason in CUT
            tally.unanswered += one.answer is None and one.finish_reason != "error"

    def step(self) -> None:
        """Log a line, if it is time."""
        now = time.monotonic()
        if now - self._logged < self._every:
            return
        self._logged, tally = now, self._tally
        tally.running = max(0, self._generated() - self._tokens_before - tally.tokens)
        done = self._done + tally.samples
        line = progress_line(done, self._total, tally, now - self._begun, self._max_tokens)
        log.info("%s: %s", self._method, line)

    def _generated(self) -> int:
        """Tokens that were generated, those of unfinished solutions included."""
        return sum(one.tokens_generated for one in self._generators)
