"""From samples to scores: what each method got right, and paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.results import ProblemResult
from gsr_engine.text.answers import majority

_BLOCK = 2_000_000
"""Bootstrap draws held in memory at a time."""

Hits = npt.NDArray[np.float64]
"""One number per problem: 1 if the method is right, else 0 (for pass@1 the share of k)."""


def pass_at_1(samples: Sequence[ProblemResult], k: int) -> Hits:
    """Share of the first k candidates that are right."""
    return np.array([np.mean([c.correct for c in s.candidates[:k]]) for s in samples])


def oracle(samples: Sequence[ProblemResult], k: int) -> Hits:
    """pass@k: whether any of the first k is right; no selection can be better."""
    return np.array([any(c.correct for c in s.candidates[:k]) for s in samples], dtype=float)


def majority_at(samples: Sequence[ProblemResult], k: int) -> Hits:
    """maj@k: the most frequent answer of the first k (the earlier one on a tie).

    Equal answers vote together; right ones do because all equal the gold answer.
    """
    hits = []
    for sample in samples:
        first = sample.candidates[:k]
        winner = majority([one.answer for one in first], [one.correct for one in first])
        hits.append(winner is not None and first[winner].correct)
    return np.array(hits, dtype=float)


def best_of(samples: Sequence[ProblemResult], k: int) -> Hits:
    """Best of k by the model's own log-probability of the whole solution."""
    return np.array(
        [max(s.candidates[:k], key=lambda c: c.logprob).correct for s in samples], dtype=float
    )


def greedy(samples: Sequence[ProblemResult]) -> Hits:
    """The direct solution at temperature 0."""
    return np.array([s.greedy is not None and s.greedy.correct for s in samples], dtype=float)


def refined(samples: Sequence[ProblemResult], method: str) -> Hits:
    """A refinement; a problem without one counts as wrong."""
    return np.array(
        [method in s.refinements and s.refinements[method].correct for s in samples], dtype=float
    )


def num_correct(samples: Sequence[ProblemResult], k: int) -> npt.NDArray[np.int64]:
    """Nc: right candidates among the first k."""
    return np.array([sum(c.correct for c in s.candidates[:k]) for s in samples], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % bootstrap interval over problems."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def bootstrap(values: Hits, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Percentile bootstrap of a mean; the difference of two methods gives a paired interval."""
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for block in np.array_split(means, -(-resamples * len(values) // _BLOCK)):
        block[:] = values[rng.integers(len(values), size=(len(block), len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))
