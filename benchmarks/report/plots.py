"""The plots of a report: accuracy against cost, over k, over right candidates, over strangers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise

from benchmarks.analysis import curve
from benchmarks.analysis.intervals import Interval
from benchmarks.analysis.strata import Strata
from benchmarks.analysis.summary import Summary
from benchmarks.report.blocks import Axis, Plot, Point, Role, Scale, Series

_TOTAL = Axis(name="Total tokens", label="tokens computed per problem", log=True)
_SEQUENTIAL = Axis(name="Sequential tokens", label="tokens one after the other, per problem")
_FIRST = ("pass@1", "greedy", "maj", "pass@k", "best-of-k (logprob)", "best-of-k (reward)")


def starts_shown(family: str, name: str) -> bool:
    """Whether a selection is among those that everybody looks for, and no mean over choices."""
    return family in _FIRST and " of " not in name


def scale_of(interval: Interval) -> Scale:
    """What is drawn of an interval."""
    return (interval.mean, interval.low, interval.high)


def parted_by(strata: Strata) -> str:
    """What parts the samples, and among how many candidates if it looks at any."""
    return f"{strata.by}, of {strata.k}" if strata.k else strata.by


class Plots:
    """The plots of one run.

    Args:
        summary: has the points.
        refined: the methods that generate an answer from candidates.
    """

    def __init__(self, summary: Summary, refined: Collection[str]) -> None:
        self._summary = summary
        self._refined = refined
        self._family = {row.name: row.family for row in summary.methods}
        names = {row.family: row.name in refined for row in summary.methods}
        # Those that are shown have colours of their own for as long as colours last.
        order = sorted(names, key=lambda family: (not names[family], family not in _FIRST))
        self._colours = {family: number for number, family in enumerate(order)}

    def cost(self) -> Iterator[Plot]:
        """Accuracy against cost, on both axes; points of a family are joined over k."""
        points = [one for one in self._summary.curve if one.total > 0 and one.sequential > 0]
        if points:
            yield Plot(
                title="Accuracy against cost",
                axes=(_TOTAL, _SEQUENTIAL),
                series=tuple(self._families(points, lambda one: (one.total, one.sequential))),
            )

    def _shows(self, point: curve.Point) -> bool:
        return point.name in self._refined or point.family in _FIRST

    def over_k(self) -> Iterator[Plot]:
        """Accuracy over k, of the families that have several."""
        every = self._summary.curve
        count = Counter(family for family, _ in {(one.family, one.k) for one in every})
        several = [one for one in every if count[one.family] > 1]
        if several:
            yield Plot(
                title="Accuracy over k",
                axes=(Axis(name="k", label="k, candidates"),),
                series=tuple(self._families(several, lambda one: (one.k,))),
                ticks=tuple(sorted({one.k for one in several})),
                note="maj, pass@k and best-of-k are means over all choices of k among the "
                "candidates drawn; other methods read the first k.",
            )

    def _families(
        self, points: Sequence[curve.Point], at: Callable[[curve.Point], tuple[float, ...]]
    ) -> Iterator[Series]:
        for family in dict.fromkeys(one.family for one in points):
            mine = [one for one in points if one.family == family]
            refined = any(one.name in self._refined for one in mine)
            role: Role = "refined" if refined else "bound" if mine[0].oracle else "other"
            yield Series(
                name=family,
                role=role,
                colour=self._colours.get(family, 0),
                shown=self._shows(mine[0]),
                points=tuple(
                    Point(at=at(one), scale=scale_of(one.accuracy), label=one.name) for one in mine
                ),
            )

    def strata(self) -> Iterator[Plot]:
        """Accuracy by what parts the samples, where it is a number: right candidates, sizes."""
        for strata in self._summary.strata:
            if not all(row.label.isdigit() for row in strata.rows):
                continue
            names = dict.fromkeys(name for row in strata.rows for name in row.accuracy)
            parted = parted_by(strata)
            yield Plot(
                title=f"By {parted}",
                axes=(Axis(name=strata.by, label=parted),),
                series=tuple(
                    Series(
                        name=name,
                        role="refined" if name in self._refined else "other",
                        colour=self._colours.get(self._family.get(name, ""), 0),
                        points=tuple(
                            Point(
                                at=(int(row.label),),
                                scale=scale_of(row.accuracy[name]),
                                label=f"{name}, {strata.by} {row.label}, {row.samples:,} samples",
                            )
                            for row in strata.rows
                            if name in row.accuracy
                        ),
                    )
                    for name in names
                ),
                ticks=tuple(int(row.label) for row in strata.rows),
            )

    def mixtures(self) -> Iterator[Plot]:
        """Accuracy over the share of candidates that others replace, a line for each pool."""
        every = self._summary.mixtures
        starts = [index for index, one in enumerate(every) if one.pool == "own"]
        for start, end in pairwise([*starts, len(every)]):
            base, *replaced = every[start:end]
            pools = dict.fromkeys(one.pool for one in replaced)
            label = f"share of the candidates replaced, {base.method}"
            yield Plot(
                title="What it reads",
                axes=(Axis(name="share", label=label),),
                series=tuple(
                    Series(
                        name=pool,
                        role="refined",
                        colour=number,
                        points=tuple(
                            Point(at=(one.share,), scale=scale_of(one.accuracy), label=one.method)
                            for one in (base, *replaced)
                            if one.pool in ("own", pool)
                        ),
                    )
                    for number, pool in enumerate(pools)
                ),
            )
