"""Two methods over the same samples: paired differences, and the refinement gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.analysis.intervals import Interval, Resampling, mcnemar
from benchmarks.analysis.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of a method minus that of another one.

    Attributes:
        method, other: their names.
        interval: of the paired difference.
        better, worse: problems that the method is right on more often, and less often. None if one
            of the two is a mean over choices: a share is not right or wrong.
        p_value: of McNemar's exact test over these; None without them.
    """

    method: str
    other: str
    interval: Interval
    better: int | None
    worse: int | None
    p_value: float | None


def differences(
    pairs: Sequence[tuple[Outcome, Outcome]], resampling: Resampling
) -> list[Difference]:
    """The paired difference of each two methods: the first minus the second."""
    intervals = resampling.means([method.hits - other.hits for method, other in pairs])
    out = []
    for (method, other), interval in zip(pairs, intervals, strict=True):
        counts: tuple[int | None, int | None, float | None] = None, None, None
        if method.is_graded and other.is_graded:
            better, worse = resampling.compare(method.hits, other.hits)
            counts = better, worse, mcnemar(better, worse)
        out.append(Difference(method.name, other.name, interval, *counts))
    return out


@dataclass(frozen=True, slots=True)
class Gap:
    """The refinement gap: what refining gains beyond a majority vote, relative to the vote.

    (refined - majority) / majority, of accuracies, after arXiv 2509.00084; its abstract names the
    figure in words, and the formula follows these.

    Attributes:
        interval: None if the majority is never right.
    """

    method: str
    majority: str
    interval: Interval | None


def refinement_gaps(pairs: Sequence[tuple[Outcome, Outcome]], resampling: Resampling) -> list[Gap]:
    """The refinement gap of each method over the majority of the same candidates."""
    parts = [(method.hits - majority.hits, majority.hits) for method, majority in pairs]
    return [
        Gap(method.name, majority.name, interval)
        for (method, majority), interval in zip(pairs, resampling.ratios(parts), strict=True)
    ]
