"""Intervals that are clustered by problem, and exact tests of paired differences.

Repeats of one problem are not independent, so a problem is drawn with all of its repeats. Intervals
and tests stand for one comparison each; they are not corrected for how many a table holds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_BLOCK = 2_000_000
"""Draws held in memory at a time."""
_EQUAL = 1e-9
"""Shares that differ by less are equal."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def signed(self) -> str:
        """As text, with the signs that a difference needs."""
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


class Resampling:
    """Problems drawn with replacement, as often as there are problems; the same draws for all.

    Intervals are percentiles of the bootstrap. The interval of a difference of two methods is
    paired, because both are drawn together. Where every problem has the same value the interval has
    no width: few problems then say less than it seems.

    Args:
        problems: of each sample its problem.
        resamples: how often all problems are drawn.
        seed: of the draws.
    """

    def __init__(
        self, problems: Sequence[Hashable], resamples: int = 10_000, seed: int = 0
    ) -> None:
        numbers = {problem: number for number, problem in enumerate(dict.fromkeys(problems))}
        self._problem = np.array([numbers[problem] for problem in problems])
        self.num_problems = len(numbers)
        rng, count = np.random.default_rng(seed), len(numbers)
        self._blocks = []
        for block in np.array_split(np.arange(resamples), -(-resamples * count // _BLOCK)):
            drawn = rng.integers(count, size=(len(block), count))
            drawn += count * np.arange(len(block))[:, None]
            times = np.bincount(drawn.ravel(), minlength=len(block) * count)
            self._blocks.append(times.reshape(-1, count).astype(np.uint16))

    def mean(self, values: Floats) -> Interval:
        """Mean over all samples."""
        return self._interval(values, np.ones(len(values)))

    def ratio(self, above: Floats, below: Floats) -> Interval | None:
        """A sum over samples divided by another one; None if that is zero.

        With a mask below, and values times the mask above, it is the mean of some samples. Draws in
        which the sum below is zero say nothing and are left out.
        """
        return self._interval(above, below) if below.any() else None

    def _interval(self, above: Floats, below: Floats) -> Interval:
        sums = np.stack([self.by_problem(above), self.by_problem(below)], axis=1)
        drawn = np.concatenate([block.astype(float) @ sums for block in self._blocks])
        drawn = drawn[drawn[:, 1] != 0]
        low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
        return Interval(float(above.sum() / below.sum()), float(low), float(high))

    def by_problem(self, values: Floats) -> Floats:
        """The sum of each problem's samples."""
        return np.bincount(self._problem, weights=values, minlength=self.num_problems)

    def compare(self, values: Floats, other: Floats) -> tuple[int, int]:
        """For how many problems a method is right more often than another, and less often."""
        difference = self.by_problem(values - other)
        return int((difference > _EQUAL).sum()), int((difference < -_EQUAL).sum())


def mcnemar(better: int, worse: int) -> float:
    """Two-sided exact p-value of McNemar's test, from the two counts of discordant pairs.

    It is the sign test: under equality each pair falls to either side with probability 1/2. With
    repeats a pair is a problem, which counts for the method that is right more often.
    """
    pairs = better + worse
    tail = sum(math.comb(pairs, one) for one in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**pairs)
