"""Rounds of all engines in turns on a machine that others may use at the same time.

A fixed product is timed before and after each run. If it takes more than 15 % longer than the
fastest one seen, the machine was busy, and the run is repeated, a few times at most. Each phase's
best time over all runs counts, because a busy machine makes no run faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks.peers.job import JobResult
from benchmarks.peers.run import PeerSkipped
from benchmarks.steadiness import TOLERANCE, time_product


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an engine, and the seconds of the fixed product before and after it."""

    result: JobResult
    before: float
    after: float

    def slowdown(self, fastest: float) -> float:
        """How many times as long the product took, at worst, as at its fastest."""
        return max(self.before, self.after) / fastest


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What counts of an engine's runs.

    Attributes:
        seconds_candidates, seconds_refine: the best of each phase.
        tokens, facts: as in `JobResult`.
        loss: as in `JobResult`; of the run that was asked for it.
        spread: the worst total over the best, of steady runs; of all if none was steady.
        steady: runs while the machine was not busy.
        runs: all runs.
    """

    seconds_candidates: float
    seconds_refine: float
    tokens: int
    facts: dict[str, str]
    loss: float | None
    spread: float
    steady: int
    runs: int


@dataclass(slots=True)
class Rounds:
    """The runs of all engines.

    Attributes:
        rounds: how often each engine runs.
        repeats: most repetitions of a run while the machine is busy.
        time_product: seconds of the fixed product.
        runs: of each engine that gave figures; repetitions follow the run that they repeat.
        skipped: why an engine gave no figures, or no more figures.
        fastest: seconds of the fixed product at its fastest.
    """

    rounds: int
    repeats: int
    time_product: Callable[[], float] = time_product
    runs: dict[str, list[Run]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    fastest: float = float("inf")

    def measure(
        self, engines: Mapping[str, Callable[[], JobResult]], progress: Callable[[str], None]
    ) -> None:
        """Run every engine once a round, one after the other, and report what happens."""
        for number in range(1, self.rounds + 1):
            for name, run in engines.items():
                if name in self.skipped:
                    continue
                progress(f"round {number}: {name}")
                try:
                    for one in self._until_steady(run, progress):
                        self.runs.setdefault(name, []).append(one)
                except PeerSkipped as reason:
                    self.skipped[name] = str(reason)

    def _until_steady(
        self, run: Callable[[], JobResult], progress: Callable[[str], None]
    ) -> Iterator[Run]:
        for _ in range(1 + self.repeats):
            before = self.time_product()
            one = Run(run(), before, self.time_product())
            self.fastest = min(self.fastest, one.before, one.after)
            slowdown = one.slowdown(self.fastest)
            took = one.result
            progress(
                f"  {took.seconds_candidates:.2f} + {took.seconds_refine:.2f} s, "
                f"the machine took {slowdown:.2f} times its best"
            )
            yield one
            if slowdown <= TOLERANCE:
                return

    def outcome(self, name: str) -> Outcome:
        """What counts of an engine's runs."""
        runs = self.runs[name]
        steady = [run for run in runs if run.slowdown(self.fastest) <= TOLERANCE]
        totals = [run.result.seconds for run in steady or runs]
        return Outcome(
            seconds_candidates=min(run.result.seconds_candidates for run in runs),
            seconds_refine=min(run.result.seconds_refine for run in runs),
            tokens=runs[0].result.tokens,
            facts=runs[0].result.facts,
            loss=next((run.result.loss for run in runs if run.result.loss is not None), None),
            spread=max(totals) / min(totals),
            steady=len(steady),
            runs=len(runs),
        )
