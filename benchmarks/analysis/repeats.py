"""Repeats of the whole pipeline: how much accuracy and cost differ from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.analysis.intervals import Floats
from benchmarks.analysis.outcome import Outcome
from benchmarks.samples.sample import Sample


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over repeats.

    Attributes:
        values: of each repeat.
        sd: standard deviation between repeats (of a sample, n - 1); None with one repeat.
    """

    values: list[float]
    mean: float
    sd: float | None
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Repeated:
    """A method over repeats: accuracy, and mean cost per problem in tokens."""

    method: str
    accuracy: Spread
    total: Spread
    sequential: Spread


@dataclass(frozen=True, slots=True)
class Duel:
    """In how many repeats a method's accuracy is above another's, equal, and below."""

    method: str
    other: str
    won: int
    tied: int
    lost: int


def repeated(samples: Sequence[Sample], outcome: Outcome) -> Repeated:
    """A method over the repeats of a run."""
    return Repeated(
        outcome.name,
        _spread(samples, outcome.hits),
        _spread(samples, outcome.cost.total),
        _spread(samples, outcome.cost.sequential),
    )


def duel(method: Repeated, other: Repeated) -> Duel:
    """Two methods, repeat by repeat."""
    pairs = zip(method.accuracy.values, other.accuracy.values, strict=True)
    signs = [round(one - two, 9) for one, two in pairs]
    won, lost = sum(sign > 0 for sign in signs), sum(sign < 0 for sign in signs)
    return Duel(method.method, other.method, won, len(signs) - won - lost, lost)


def _spread(samples: Sequence[Sample], values: Floats) -> Spread:
    repeat = np.array([sample.repeat for sample in samples])
    means = [float(values[repeat == one].mean()) for one in sorted(set(repeat.tolist()))]
    sd = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Spread(means, float(np.mean(means)), sd, min(means), max(means))
