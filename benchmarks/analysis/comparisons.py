"""Two methods over the same samples: paired differences, and the refinement gap."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.analysis.intervals import Interval, Resampling, mcnemar
from benchmarks.analysis.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of a method minus that of another one.

    Attributes:
        method, other: their names.
        interval: of the paired difference.
        better, worse: problems that the method is right on more often, and less often.
        p_value: of McNemar's exact test over these.
    """

    method: str
    other: str
    interval: Interval
    better: int
    worse: int
    p_value: float


def difference(method: Outcome, other: Outcome, resampling: Resampling) -> Difference:
    """The paired difference of two methods."""
    better, worse = resampling.compare(method.hits, other.hits)
    interval = resampling.mean(method.hits - other.hits)
    return Difference(method.name, other.name, interval, better, worse, mcnemar(better, worse))


@dataclass(frozen=True, slots=True)
class Gap:
    """The refinement gap: what refining gains beyond a majority vote, relative to the vote.

    (refined - majority) / majority of accuracies, after arXiv 2509.00084. The paper names the figure
    and was not found to state the formula.

    Attributes:
        interval: None if the majority is never right.
    """

    method: str
    majority: str
    interval: Interval | None


def refinement_gap(method: Outcome, majority: Outcome, resampling: Resampling) -> Gap:
    """The refinement gap of a method over the majority of the same candidates."""
    interval = resampling.ratio(method.hits - majority.hits, majority.hits)
    return Gap(method.name, majority.name, interval)
