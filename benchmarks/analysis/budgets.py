"""The majority vote that may spend as many tokens as a refinement does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.analysis.comparisons import Difference, difference
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
        difference: the method minus maj@k'.
    """

    method: str
    axis: Axis
    tokens: float
    k: int
    majority_tokens: float
    all_drawn: bool
    majority: Interval
    difference: Difference


def matched_budget(
    method: Outcome, majorities: Sequence[Outcome], axis: Axis, resampling: Resampling
) -> Budget:
    """A method beside majority at equal cost on one axis.

    Args:
        method: a refinement.
        majorities: maj@1 to maj@n, as of `mean_majorities`.
        axis: which cost is equal.
        resampling: of the samples.
    """
    tokens = _mean(method.cost, axis)
    costs = [_mean(one.cost, axis) for one in majorities]
    chosen = majorities[max([0, *(i for i, cost in enumerate(costs) if cost <= tokens)])]
    return Budget(
        method.name,
        axis,
        tokens,
        chosen.k,
        _mean(chosen.cost, axis),
        chosen.k == len(majorities),
        resampling.mean(chosen.hits),
        difference(method, chosen, resampling),
    )


def _mean(cost: Cost, axis: Axis) -> float:
    return float(np.mean(cost.total if axis == "total" else cost.sequential))
