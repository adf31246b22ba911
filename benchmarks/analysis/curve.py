"""Accuracy against cost: every method as a point, and which of them no other one beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.analysis.intervals import Interval, Resampling
from benchmarks.analysis.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Point:
    """A method at one k.

    Attributes:
        name: of the method.
        family: points of one family are a line over k.
        k: candidates it reads.
        accuracy: its accuracy.
        total: tokens computed per problem.
        sequential: tokens generated one after the other.
        oracle: a bound, not a method; it is on no front.
        on_total_front, on_sequential_front: no method is at least as accurate for less, or more
            accurate for as much (the Pareto front).
    """

    name: str
    family: str
    k: int
    accuracy: Interval
    total: float
    sequential: float
    oracle: bool
    on_total_front: bool = False
    on_sequential_front: bool = False


def curve(outcomes: Sequence[Outcome], resampling: Resampling) -> list[Point]:
    """Every outcome as a point; the fronts are over all of them."""
    accuracies = resampling.means([one.hits for one in outcomes])
    points = [
        Point(
            one.name,
            one.family,
            one.k,
            accuracy,
            float(np.mean(one.cost.total)),
            float(np.mean(one.cost.sequential)),
            one.oracle,
        )
        for one, accuracy in zip(outcomes, accuracies, strict=True)
    ]
    return [
        replace(
            point,
            on_total_front=_leads(point, points, "total"),
            on_sequential_front=_leads(point, points, "sequential"),
        )
        for point in points
    ]


def _leads(point: Point, points: Sequence[Point], axis: str) -> bool:
    cost, accuracy = getattr(point, axis), point.accuracy.mean
    return not point.oracle and not any(
        getattr(other, axis) <= cost
        and other.accuracy.mean >= accuracy
        and (getattr(other, axis) < cost or other.accuracy.mean > accuracy)
        for other in points
        if not other.oracle
    )
