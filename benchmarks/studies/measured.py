"""A finished run as the studies read it: hits and costs of its methods, over some samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from benchmarks.analysis import selections
from benchmarks.analysis.candidates import Candidates, candidates_of
from benchmarks.analysis.generations import generated
from benchmarks.analysis.intervals import Bools, Floats, Interval, Resampling
from benchmarks.analysis.outcome import Outcome
from benchmarks.samples.folder import Run
from benchmarks.samples.sample import Sample
from gsr_engine.errors import InvalidRequest

RESAMPLES = 4000


class Measured:
    """The outcomes of a run.

    Args:
        run: finished, with at least one sample.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def candidates(self) -> Candidates:
        """Of every sample."""
        return candidates_of(self.run.samples)

    @cached_property
    def resampling(self) -> Resampling:
        """Of the problems; runs over the same problems draw the same ones."""
        return Resampling([one.id for one in self.run.samples], RESAMPLES)

    @cached_property
    def _generated(self) -> dict[str, Outcome]:
        return {one.name: generated(self.run, self.candidates, one) for one in self.run.methods}

    def outcome(self, name: str) -> Outcome:
        """A method by its name; "pass@1", "maj@K", "best-of-K" and "pass@K" are selections.

        Raises:
            InvalidRequest: the run has no such method.
        """
        kind, at, k = name.partition("@")
        if name == "pass@1":
            return selections.pass_at_1(self.candidates)
        if kind == "maj" and at:
            return selections.majority_at(self.candidates, int(k))
        if kind == "pass" and at:
            return selections.oracle(self.candidates, int(k))
        if name.startswith("best-of-"):
            scores = self.candidates.scores["logprob"]
            return selections.best_of(
                self.candidates, int(name.removeprefix("best-of-")), "logprob", scores
            )
        if name not in self._generated:
            raise InvalidRequest("method", f"{name} is none of {', '.join(self._generated)}")
        return self._generated[name]

    def has(self, name: str) -> bool:
        """Whether the run has such a method."""
        return "-of-" in name or name.startswith(("pass@", "maj@")) or name in self._generated

    def hits(self, name: str) -> Floats:
        """1 for every sample that a method solves, or the share that it does."""
        return self.outcome(name).hits

    def accuracy(self, name: str) -> Interval:
        """The share that a method solves."""
        return self.mean(self.hits(name))

    def minus(self, name: str, other: str, of: Measured | None = None) -> Interval:
        """The paired difference of two methods; the second may be one of another run."""
        others = of or self
        return self.paired(self.hits(name), others, others.hits(other))

    def paired(self, values: Floats, of: Measured, others: Floats) -> Interval:
        """Values of every sample less those of another run, over the samples that both have.

        Raises:
            InvalidRequest: they have none in common.
        """
        place = {one: index for index, one in enumerate(of.ids)}
        shared = [(index, place[one]) for index, one in enumerate(self.ids) if one in place]
        if not shared:
            raise InvalidRequest("run", "cannot be paired: the runs have no problem in common")
        mine, theirs = np.array(shared).T
        problems = [self.ids[index][0] for index in mine]
        return Resampling(problems, RESAMPLES).mean(values[mine] - others[theirs])

    def gain(self, name: str, other: str) -> Floats:
        """Of every sample a method's hits less another one's."""
        return self.hits(name) - self.hits(other)

    def mean(self, values: Floats) -> Interval:
        """Of a value of every sample."""
        return self.resampling.mean(values)

    @property
    def ids(self) -> list[tuple[str, int]]:
        """Problem and repeat of every sample."""
        return [(one.id, one.repeat) for one in self.run.samples]

    def only(self, kept: Callable[[Sample], bool]) -> Measured | None:
        """Of some samples alone; None if there are none."""
        samples = [one for one in self.run.samples if kept(one)]
        return Measured(Run(self.run.facts, samples)) if samples else None

    def among(self, mask: Bools, name: str, other: str | Floats | None = None) -> Interval | None:
        """A method on the samples of a mask, less another one; None if there are none."""
        less: Floats | float = 0.0
        if other is not None:
            less = self.hits(other) if isinstance(other, str) else other
        values = self.hits(name) - less
        kept = mask.astype(float)
        return self.resampling.ratios([(values * kept, kept)])[0]

    def none_right(self, k: int) -> Bools:
        """The samples whose first k candidates are all wrong."""
        return np.asarray(self.candidates.correct[:, :k].sum(axis=1) == 0, bool)

    def vote_within(self, name: str) -> str:
        """The largest vote that computes no more tokens per problem than a method does."""
        votes = [f"maj@{k}" for k in range(1, self.candidates.drawn + 1)]
        budget, _ = self.tokens(name)
        within = [one for one in votes if self.tokens(one)[0] <= budget]
        return within[-1] if within else votes[0]

    def tokens(self, name: str) -> tuple[float, float]:
        """Tokens computed per problem, and those generated one after the other."""
        cost = self.outcome(name).cost
        return float(np.mean(cost.total)), float(np.mean(cost.sequential))
