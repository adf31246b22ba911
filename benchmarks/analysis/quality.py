"""How much a refinement depends on the quality of what it reads: mixed pools, and whole views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.analysis.comparisons import Difference, differences
from benchmarks.analysis.generations import answers_of
from benchmarks.analysis.intervals import Interval, Resampling
from benchmarks.analysis.outcome import Outcome
from benchmarks.samples.folder import Run
from benchmarks.samples.method import Method, Pool
from benchmarks.samples.sample import Answer
from gsr_engine.text.answers import same_answer


@dataclass(frozen=True, slots=True)
class Mixture:
    """A refinement of a pool in which some candidates were replaced.

    Attributes:
        method: its name.
        pool: where the others come from; "own" for the refinement without any.
        share: of the k candidates that were replaced.
        accuracy: of the refinement.
        copied: share of samples with a wrong answer that a replaced candidate states, and no own
            one that it read; None for the problem's own candidates, or if nothing is told of them.
        difference: it minus the refinement of the problem's own candidates; None of that itself.
    """

    method: str
    pool: Pool
    share: float
    accuracy: Interval
    copied: Interval | None
    difference: Difference | None


def mixtures(run: Run, outcomes: Sequence[Outcome], resampling: Resampling) -> Iterator[Mixture]:
    """Of each refinement that has mixed pools: itself, then the pools by growing share."""
    for own in outcomes:
        mixed = [
            (one.method, one)
            for one in outcomes
            if one.method and _varies(own.method, one.method, "mixed")
        ]
        if not mixed:
            continue
        mixed.sort(key=lambda pair: (pair[0].pool, pair[0].share))
        minus = differences([(one, own) for _, one in mixed], resampling)
        yield Mixture(own.name, "own", 0.0, resampling.mean(own.hits), None, None)
        for (method, one), change in zip(mixed, minus, strict=True):
            mean, copied = resampling.mean(one.hits), _copied(answers_of(run, method), resampling)
            yield Mixture(one.name, method.pool, method.share, mean, copied, change)


def _copied(answers: Sequence[Answer], resampling: Resampling) -> Interval | None:
    if not any(one.stated for one in answers):
        return None
    return resampling.mean(np.array([float(_copies(one)) for one in answers]))


def _copies(answer: Answer) -> bool:
    """Whether it states, wrongly, what only replaced candidates state."""
    if answer.correct or not answer.stated:
        return False
    pairs = zip(answer.pools, answer.stated, strict=True)
    equal = {pool == "own" for pool, stated in pairs if same_answer(answer.answer, stated)}
    return equal == {False}


def views(outcomes: Sequence[Outcome], resampling: Resampling) -> list[Difference]:
    """Refinements that read whole candidates minus those that read their summaries."""
    pairs = [
        (one, own)
        for own in outcomes
        for one in outcomes
        if _varies(own.method, one.method, "views")
    ]
    return differences(pairs, resampling)


def _varies(own: Method | None, other: Method | None, kind: str) -> bool:
    """Whether another method is the same refinement but for what it reads."""
    if own is None or other is None or own.kind != "selfref" or other.kind != kind:
        return False
    return (own.layout, own.k, own.temperature) == (other.layout, other.k, other.temperature)
