"""The majority vote that may spend as many tokens as a refinement does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.analysis.comparisons import Difference, differences
from benchmarks.analysis.intervals import Interval, Resampling
from benchmarks.analysis.outcome import Cost, Outcome

Axis = Literal["total", "sequential"]
"""Total tokens computed, or tokens generated one after the other (latency); see `outcome`."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A method beside majority at equal cost.

    maj@k' is the mean over all choices of k' among the n candidates drawn. k' is the largest that
    costs no more than the method, on the mean over problems; at least 1. Nothing is interpolated.
    Candidates run in parallel, so maj@k' needs as many sequential tokens as its longest candidate:
    on that axis k' is mostly n, and only n limits it.

    Attributes:
        method: its name.
        axis: which cost is equal.
        tokens: that the method spends, per problem.
        k: k'.
        majority_tokens: that maj@k' spends.
        all_drawn: k' is n: with more candidates majority could have spent more.
        majority: accuracy of maj@k'.
        difference: the method minus maj@k'; paired, and without a test (see `Difference`).
    """

    method: str
    axis: Axis
    tokens: float
    k: int
    majority_tokens: float
    all_drawn: bool
    majority: Interval
    difference: Difference


def matched_budgets(
    methods: Sequence[Outcome], majorities: Sequence[Outcome], resampling: Resampling
) -> list[Budget]:
    """Each method beside majority at equal cost, on both axes.

    Args:
        methods: refinements.
        majorities: maj@1 to maj@n, as of `mean_majorities`.
        resampling: of the samples.
    """
    axes: tuple[Axis, ...] = ("total", "sequential")
    chosen = [
        (method, axis, _largest_within(_mean(method.cost, axis), majorities, axis))
        for method in methods
        for axis in axes
    ]
    means = resampling.means([majority.hits for _, _, majority in chosen])
    minus = differences([(method, majority) for method, _, majority in chosen], resampling)
    return [
        Budget(
            method.name,
            axis,
            _mean(method.cost, axis),
            majority.k,
            _mean(majority.cost, axis),
            majority.k == len(majorities),
            mean,
            difference,
        )
        for (method, axis, majority), mean, difference in zip(chosen, means, minus, strict=True)
    ]


def _largest_within(tokens: float, majorities: Sequence[Outcome], axis: Axis) -> Outcome:
    within = [one for one in majorities if _mean(one.cost, axis) <= tokens]
    return within[-1] if within else majorities[0]


def _mean(cost: Cost, axis: Axis) -> float:
    return float(np.mean(cost.total if axis == "total" else cost.sequential))
