"""How much a refinement depends on the quality of what it reads: mixed pools, and whole views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.analysis.comparisons import Difference, difference
from benchmarks.analysis.intervals import Interval, Resampling
from benchmarks.analysis.outcome import Outcome
from benchmarks.samples.method import Method, Pool


@dataclass(frozen=True, slots=True)
class Mixture:
    """A refinement of a pool in which some candidates were replaced.

    Attributes:
        method: its name.
        pool: where the others come from; "own" for the refinement without any.
        share: of the k candidates that were replaced.
        accuracy: of the refinement.
        difference: it minus the refinement of the problem's own candidates; None of that itself.
    """

    method: str
    pool: Pool
    share: float
    accuracy: Interval
    difference: Difference | None


def mixtures(outcomes: Sequence[Outcome], resampling: Resampling) -> Iterator[Mixture]:
    """Of each refinement that has mixed pools: itself, then the pools by growing share."""
    for own in outcomes:
        mixed = [one for one in outcomes if _varies(own.method, one.method, "mixed")]
        if not mixed:
            continue
        yield Mixture(own.name, "own", 0.0, resampling.mean(own.hits), None)
        for method, one in sorted(
            ((one.method, one) for one in mixed if one.method is not None),
            key=lambda pair: (pair[0].pool, pair[0].share),
        ):
            minus = difference(one, own, resampling)
            yield Mixture(one.name, method.pool, method.share, resampling.mean(one.hits), minus)


def views(outcomes: Sequence[Outcome], resampling: Resampling) -> Iterator[Difference]:
    """Refinements that read whole candidates minus those that read their summaries."""
    for own in outcomes:
        for one in outcomes:
            if _varies(own.method, one.method, "views"):
                yield difference(one, own, resampling)


def _varies(own: Method | None, other: Method | None, kind: str) -> bool:
    """Whether another method is the same refinement but for what it reads."""
    if own is None or other is None or own.kind != "selfref" or other.kind != kind:
        return False
    return (own.layout, own.k, own.temperature) == (other.layout, other.k, other.temperature)
