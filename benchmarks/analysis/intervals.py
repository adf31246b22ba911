"""Intervals that are clustered by problem, and exact tests of paired differences.

Repeats of one problem are not independent, so a problem is drawn with all of its repeats. Intervals
and tests stand for one comparison each; they are not corrected for how many a table holds.
"""

from __future__ import annotations

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

    def means(self, values: Sequence[Floats]) -> list[Interval]:
        """The mean over all samples, of each array of values."""
        ones = np.ones_like(self._problem, float)
        return self._intervals(values, [ones] * len(values))

    def mean(self, values: Floats) -> Interval:
        """The mean over all samples."""
        return self.means([values])[0]

    def ratios(self, parts: Sequence[tuple[Floats, Floats]]) -> list[Interval | None]:
        """A sum over samples divided by another one, of each pair; None if that is zero.

        With a mask below, and values times the mask above, it is the mean of some samples. Draws in
        which the sum below is zero say nothing and are left out.
        """
        whole = [(above, below) for above, below in parts if below.any()]
        found = iter(self._intervals([one for one, _ in whole], [one for _, one in whole]))
        return [next(found) if below.any() else None for _, below in parts]

    def _intervals(self, above: Sequence[Floats], below: Sequence[Floats]) -> list[Interval]:
        if not above:
            return []
        sums = np.stack([self.by_problem(one) for one in (*above, *below)], axis=1)
        # All at once: one product of matrices takes little longer than a product with a vector.
        drawn = np.concatenate([times.astype(float) @ sums for times in self._blocks])
        intervals = []
        for index, (over, under) in enumerate(zip(above, below, strict=True)):
            tops, bottoms = drawn[:, index], drawn[:, len(above) + index]
            kept = bottoms != 0
            low, high = np.quantile(tops[kept] / bottoms[kept], [0.025, 0.975])
            intervals.append(Interval(float(over.sum() / under.sum()), float(low), float(high)))
        return intervals

    def by_problem(self, values: Floats) -> Floats:
        """The sum of each problem's samples."""
        return np.bincount(self._problem, values, self.num_problems).astype(float)

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
    tail = ways = 1
    for one in range(min(better, worse)):
        ways = ways * (pairs - one) // (one + 1)  # to choose one more: exact
        tail += ways
    return min(1.0, 2 * tail / (1 << pairs))
