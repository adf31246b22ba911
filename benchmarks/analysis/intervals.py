"""Intervals that are clustered by problem, and exact tests of paired differences.

Repeats of one problem are not independent, so a problem is drawn with all of its repeats. Intervals
and tests stand for one comparison each; they are not corrected for how many a table holds.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

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

    Intervals are percentiles of the bootstrap, expanded for few problems (see `normal_end`). The
    interval of a difference of two methods is paired, because both are drawn together. Where every
    problem has the same value the interval has no width. Where few differ it is still too narrow:
    then McNemar's test, which is exact, says more.

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
            counted = (sums[:, [index, len(above) + index]] != 0).any(axis=1)
            tail = NormalDist().cdf(-normal_end(int(counted.sum())))
            low, high = np.quantile(tops[kept] / bottoms[kept], [tail, 1 - tail])
            intervals.append(Interval(float(over.sum() / under.sum()), float(low), float(high)))
        return intervals

    def by_problem(self, values: Floats) -> Floats:
        """The sum of each problem's samples."""
        return np.bincount(self._problem, values, self.num_problems).astype(float)

    def compare(self, values: Floats, other: Floats) -> tuple[int, int]:
        """For how many problems a method is right more often than another, and less often."""
        difference = self.by_problem(values - other)
        return int((difference > _EQUAL).sum()), int((difference < -_EQUAL).sum())


def normal_end(problems: int) -> float:
    """Where the 95 % interval of a mean ends, in standard deviations of the bootstrap.

    Percentiles of the bootstrap are too narrow by sqrt((n - 1) / n), and take the normal
    distribution for Student's t. Both are mended by ending at t_{.975, n-1} sqrt(n / (n - 1))
    ("expanded percentiles", Hesterberg 2015, arXiv 1411.5279). t is by its expansion in 1 / (n - 1)
    (Abramowitz and Stegun, 26.7.5). One problem has no spread to expand.
    """
    x, free = NormalDist().inv_cdf(0.975), problems - 1
    if free < 1:
        return x
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
    )
    t = x + sum(term / free**power for power, term in enumerate(terms, start=1))
    return float(t * (problems / free) ** 0.5)


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
