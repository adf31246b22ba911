"""Samples by what their candidates are like, and where refining turns right into wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.analysis.candidates import NOBODY, Candidates
from benchmarks.analysis.intervals import Interval, Resampling
from benchmarks.analysis.outcome import Outcome
from benchmarks.samples.sample import Sample


@dataclass(frozen=True, slots=True)
class Stratum:
    """Some of the samples.

    Attributes:
        label: what they have in common.
        samples: how many there are.
        accuracy: of each method by name; empty if there are none.
    """

    label: str
    samples: int
    accuracy: dict[str, Interval]


@dataclass(frozen=True, slots=True)
class Strata:
    """All samples, parted.

    Attributes:
        by: what parts them.
        k: how many candidates of each are looked at; 0 if none are.
        rows: the parts; each sample is in one.
    """

    by: str
    k: int
    rows: list[Stratum]


def by_correct(
    candidates: Candidates, k: int, outcomes: Sequence[Outcome], resampling: Resampling
) -> Strata:
    """By Nc: how many of the first k candidates are right, 0 to k."""
    right = candidates.correct[:, :k].sum(axis=1)
    labels = [str(number) for number in range(k + 1)]
    return _strata("right candidates", k, labels, right.astype(str), outcomes, resampling)


def by_majority(
    candidates: Candidates, k: int, outcomes: Sequence[Outcome], resampling: Resampling
) -> Strata:
    """By the size of the largest group of equal answers among the first k, and whether it is right.

    On a tie of a right group with wrong ones, the one that appears first is the majority.
    """
    group, labels = candidates.group[:, :k], []
    for mine, correct in zip(group, candidates.correct[:, :k], strict=True):
        sizes = np.where(mine != NOBODY, (mine[:, None] == mine[None, :]).sum(axis=1), 0)
        first = int(sizes.argmax())
        labels.append(f"{sizes[first]} {'right' if correct[first] else 'wrong'}")
    names = ["0 wrong", *(f"{n} {grade}" for n in range(1, k + 1) for grade in ("wrong", "right"))]
    return _strata("size of the majority", k, names, np.array(labels), outcomes, resampling)


def by_size(
    samples: Sequence[Sample], outcomes: Sequence[Outcome], resampling: Resampling
) -> Strata:
    """By the size of the problem: puzzle length, level."""
    sizes = np.array([sample.size or "–" for sample in samples])
    return _strata("size", 0, _in_order(set(sizes.tolist())), sizes, outcomes, resampling)


def _in_order(sizes: set[str]) -> list[str]:
    """Numbers by value, before all else by letters."""
    numbers = sorted((one for one in sizes if one.isdecimal()), key=int)
    return numbers + sorted(one for one in sizes if not one.isdecimal())


def _strata(
    by: str,
    k: int,
    names: Sequence[str],
    labels: np.ndarray[tuple[int], np.dtype[np.str_]],
    outcomes: Sequence[Outcome],
    resampling: Resampling,
) -> Strata:
    masks = [(labels == name).astype(float) for name in names]
    means = iter(resampling.ratios([(one.hits * mask, mask) for mask in masks for one in outcomes]))
    rows = []
    for name, mask in zip(names, masks, strict=True):
        mine = {one.name: next(means) for one in outcomes}
        kept = {method: mean for method, mean in mine.items() if mean is not None}
        rows.append(Stratum(name, int(mask.sum()), kept))
    return Strata(by, k, rows)


@dataclass(frozen=True, slots=True)
class FlipsAt:
    """Flips of the samples with the same number of right candidates.

    Attributes:
        right: right candidates of k.
        samples: how many samples have so many.
        gained, lost: as of `Flips`.
    """

    right: int
    samples: int
    gained: int
    lost: int


@dataclass(frozen=True, slots=True)
class Flips:
    """What a method made of the majority of the problem's first k candidates, in samples.

    Attributes:
        gained: majority wrong, refined right.
        lost: majority right, refined wrong.
        kept_right, kept_wrong: the others.
        by_correct: the same by Nc, 0 to k; gained at 0 is what no selection can gain.
        gained_samples, lost_samples: problem and repeat of each.
    """

    method: str
    k: int
    gained: int
    lost: int
    kept_right: int
    kept_wrong: int
    by_correct: list[FlipsAt]
    gained_samples: list[tuple[str, int]]
    lost_samples: list[tuple[str, int]]


def flips(
    samples: Sequence[Sample], candidates: Candidates, method: Outcome, majority: Outcome
) -> Flips:
    """Flips of a method against the majority of the same number of candidates."""
    refined, voted = method.hits > 0, majority.hits > 0
    gained, lost = refined & ~voted, ~refined & voted
    right = candidates.correct[:, : majority.k].sum(axis=1)
    parts = []
    for number in range(majority.k + 1):
        mine = right == number
        counts = (int((part & mine).sum()) for part in (gained, lost))
        parts.append(FlipsAt(number, int(mine.sum()), *counts))
    where = [(sample.id, sample.repeat) for sample in samples]
    return Flips(
        method.name,
        majority.k,
        int(gained.sum()),
        int(lost.sum()),
        int((refined & voted).sum()),
        int((~refined & ~voted).sum()),
        parts,
        [where[index] for index in np.flatnonzero(gained)],
        [where[index] for index in np.flatnonzero(lost)],
    )
