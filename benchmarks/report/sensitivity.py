"""How much figures move: with what a refinement reads, its order, and from repeat to repeat."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.analysis.repeats import Spread
from benchmarks.analysis.summary import Summary
from benchmarks.report.blocks import Cell, Table
from benchmarks.report.plots import scale_of
from benchmarks.report.wording import p_value, tokens


def mixtures(summary: Summary) -> Iterator[Table]:
    """Refinements of pools in which others replace some candidates."""
    if summary.mixtures:
        yield Table(
            title="What it reads",
            columns=(
                *("method", "replaced by", "share", "accuracy [95 %]", "minus none replaced"),
                "wrongly copied",
            ),
            rows=tuple(
                (
                    Cell(one.method),
                    Cell("–" if one.pool == "own" else one.pool),
                    Cell(f"{one.share:.2f}"),
                    Cell(str(one.accuracy), scale=scale_of(one.accuracy)),
                    Cell(one.difference.interval.signed if one.difference else ""),
                    Cell(str(one.copied) if one.copied else ""),
                )
                for one in summary.mixtures
            ),
            note="Wrongly copied: the share of samples with a wrong answer that only replaced "
            "candidates state.",
        )


def orders(summary: Summary) -> Iterator[Table]:
    """Refinements of the same candidates in several orders."""
    if summary.orders:
        columns = ("orders of", "accuracy of each", "answer changes", "grade changes")
        yield Table(
            title="The order it reads them in",
            columns=(*columns, "right in any", "right in all"),
            rows=tuple(
                (
                    Cell(one.methods[0]),
                    Cell(", ".join(f"{value:.3f}" for value in one.accuracy)),
                    *(
                        Cell(str(interval))
                        for interval in (
                            one.answer_changes,
                            one.grade_changes,
                            one.ever_right,
                            one.always_right,
                        )
                    ),
                )
                for one in summary.orders
            ),
            note="Shares of samples, over several orders of the same candidates.",
        )


def views(summary: Summary) -> Iterator[Table]:
    """Refinements of whole candidates beside those of summaries."""
    if summary.views:
        yield Table(
            title="Whole candidates or summaries",
            columns=("whole minus summary", "difference [95 %]", "McNemar p"),
            rows=tuple(
                (
                    Cell(f"{one.method} − {one.other}"),
                    Cell(one.interval.signed),
                    Cell(p_value(one.p_value)),
                )
                for one in summary.views
            ),
        )


def repeats(summary: Summary) -> Iterator[Table]:
    """Accuracy and cost of every method at the headline k over repeats."""
    if summary.repeats > 1:
        names = {row.name for row in summary.methods if row.k in (1, summary.headline)}
        yield Table(
            title=f"Spread over {summary.repeats} repeats",
            columns=(
                "method",
                "accuracy ± sd",
                "lowest to highest",
                "tokens ± sd",
                "sequential ± sd",
            ),
            rows=tuple(
                (
                    Cell(one.method),
                    Cell(
                        f"{one.accuracy.mean:.3f} ± {one.accuracy.sd or 0:.3f}",
                        scale=(one.accuracy.mean, one.accuracy.lowest, one.accuracy.highest),
                    ),
                    Cell(f"{one.accuracy.lowest:.3f} to {one.accuracy.highest:.3f}"),
                    Cell(_spread(one.total)),
                    Cell(_spread(one.sequential)),
                )
                for one in summary.repeated
                if one.method in names
            ),
            note="Each repeat draws everything anew. The bar goes from the lowest to the highest.",
        )


def _spread(spread: Spread) -> str:
    return f"{tokens(spread.mean)} ± {spread.sd or 0:.1f}"


def duels(summary: Summary) -> Iterator[Table]:
    """The headline refinements against the others, repeat by repeat."""
    headline = {row.name for row in summary.methods if row.k in (1, summary.headline)}
    shown = [one for one in summary.duels if one.other in headline]
    if shown:
        yield Table(
            title="Repeat by repeat",
            columns=("method against other", "above", "equal", "below"),
            rows=tuple(
                (
                    Cell(f"{one.method} | {one.other}"),
                    *map(Cell, map(str, (one.won, one.tied, one.lost))),
                )
                for one in shown
            ),
            note="In how many repeats the accuracy of the method is above, equal, or below.",
        )
