"""Order sensitivity: what changes with the order in which a refinement reads its candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.analysis.generations import answers_of
from benchmarks.analysis.intervals import Interval, Resampling
from benchmarks.analysis.outcome import Outcome
from benchmarks.samples.folder import Run
from benchmarks.samples.method import Method
from gsr_engine.text.answers import group_answers


@dataclass(frozen=True, slots=True)
class OrderSensitivity:
    """Refinements of the same candidates in several orders.

    Attributes:
        methods: their names, the run's own order first if it is there.
        accuracy: of each.
        answer_changes: share of samples whose answer is not the same in all orders; an answer in
            one order and none in another is a change.
        grade_changes: share of samples that are right in some orders and not in others.
        ever_right, always_right: share of samples that are right in any order, and in all.
    """

    methods: list[str]
    accuracy: list[float]
    answer_changes: Interval
    grade_changes: Interval
    ever_right: Interval
    always_right: Interval


def order_sensitivity(
    run: Run, outcomes: Sequence[Outcome], resampling: Resampling
) -> Iterator[OrderSensitivity]:
    """Of each layout, k and temperature that was run in several orders."""
    groups: dict[tuple[object, ...], list[tuple[Method, Outcome]]] = {}
    for one in outcomes:
        method = one.method
        if method is not None and method.kind in ("selfref", "orders"):
            key = (method.layout, method.k, method.temperature, method.view)
            groups.setdefault(key, []).append((method, one))
    for members in groups.values():
        if len(members) > 1:
            members.sort(key=lambda member: member[0].order)
            yield _sensitivity(run, members, resampling)


def _sensitivity(
    run: Run, members: Sequence[tuple[Method, Outcome]], resampling: Resampling
) -> OrderSensitivity:
    given = [answers_of(run, method) for method, _ in members]
    changed = []
    for answers in zip(*given, strict=True):
        votes = group_answers([one.answer for one in answers], [one.correct for one in answers])
        together = max(map(len, votes.groups), default=len(answers))  # no answer at all: the same
        changed.append(float(together < len(answers)))
    hits = np.stack([outcome.hits for _, outcome in members])
    ever, always = hits.max(axis=0), hits.min(axis=0)
    intervals = resampling.means([np.array(changed), ever - always, ever, always])
    return OrderSensitivity(
        [method.name for method, _ in members],
        [float(mean) for mean in hits.mean(axis=1)],
        *intervals,
    )
