"""A summary as tables for a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table

from benchmarks.analysis.comparisons import Difference
from benchmarks.analysis.intervals import Interval
from benchmarks.analysis.strata import Strata
from benchmarks.analysis.summary import Summary


def show_summary(console: Console, summary: Summary) -> None:
    """Everything that there is something to say about; accuracy stands beside cost."""
    for part in _parts(summary):
        console.print(part, markup=False, highlight=False)


def _parts(summary: Summary) -> Iterator[Table | str]:
    yield _methods(summary)
    yield from _legend(summary)
    tables = (
        _differences("differences [95 %, paired, clustered by problem]", summary.differences),
        _budgets(summary),
        *(_strata(one) for one in summary.strata),
        _flips(summary),
        _orders(summary),
        _differences("whole candidates minus summaries", summary.views),
        _mixtures(summary),
        _repeats(summary),
        _phases(summary),
    )
    yield from (table for table in tables if table.row_count)


def _table(title: str, first: str, *columns: str) -> Table:
    """The first column holds names, the others figures."""
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _methods(summary: Summary) -> Table:
    repeats = f", {summary.repeats} repeats" if summary.repeats > 1 else ""
    title = f"{summary.model}, {summary.task}: {summary.problems} problems{repeats}"
    columns = ("accuracy [95 %]", "tokens", "sequential", "cut", "no answer", "saved")
    table = _table(title, "method", *columns)
    for row in summary.methods:
        table.add_row(
            row.name,
            _plain(row.accuracy),
            f"{row.total:,.0f}",
            f"{row.sequential:,.0f}",
            f"{row.cut:.1%}",
            f"{row.unanswered:.1%}",
            "" if row.saved is None else f"{row.saved:.0%}",
        )
    return table


def _legend(summary: Summary) -> Iterator[str]:
    if summary.temperature is not None:
        yield f"candidates at T={summary.temperature:g}; greedy and selfref at T=0 unless named"
    if summary.max_tokens is not None:
        yield f"cut at {summary.max_tokens:,} tokens: of the solutions the answer is taken from"
    yield "tokens: computed per problem, with prompts and candidates; sequential: one after the other"
    if summary.window:
        yield f"confidence: of the drawn tokens, in groups of {summary.window}"
    for note in summary.notes:
        yield f"note: {note}"
    for problem, reason in summary.left_out:
        yield f"left out: problem {problem}: {reason}"


def _differences(title: str, differences: Iterable[Difference]) -> Table:
    table = _table(title, "method", "minus", "difference", "better", "worse", "McNemar p")
    before = None
    for one in differences:
        name = "" if one.method == before else one.method
        before = one.method
        counts = str(one.better), str(one.worse), _p_value(one.p_value)
        table.add_row(name, one.other, one.interval.signed, *counts)
    return table


def _budgets(summary: Summary) -> Table:
    table = _table(
        "majority at equal cost", "method", "axis", "tokens", "maj@k'", "its tokens", "its accuracy",
        "difference", "p",
    )  # fmt: skip
    for one in summary.budgets:
        table.add_row(
            one.method if one.axis == "total" else "",
            one.axis,
            f"{one.tokens:,.0f}",
            f"maj@{one.k}" + ("*" if one.all_drawn else ""),
            f"{one.majority_tokens:,.0f}",
            f"{one.majority.mean:.3f}",
            one.difference.interval.signed,
            _p_value(one.difference.p_value),
        )
    if any(one.all_drawn for one in summary.budgets):
        table.caption = "* all that were drawn: majority could have spent more"
        table.caption_justify = "left"
    return table


def _strata(strata: Strata) -> Table:
    """Methods down and strata across; with many strata the other way round."""
    rows = [row for row in strata.rows if row.samples]
    names = list(dict.fromkeys(name for row in rows for name in row.accuracy))
    of = f" of {strata.k}" if strata.k else ""
    title = f"by {strata.by}{of}"
    if len(names) > len(rows):
        table = _table(title, "method", *(f"{row.label} ({row.samples})" for row in rows))
        for name in names:
            table.add_row(name, *(_mean(row.accuracy.get(name)) for row in rows))
        return table
    table = _table(title, strata.by, "samples", *names)
    for row in rows:
        table.add_row(row.label, str(row.samples), *(_mean(row.accuracy.get(n)) for n in names))
    return table


def _flips(summary: Summary) -> Table:
    gaps = {gap.method: gap.interval for gap in summary.gaps}
    table = _table(
        "majority to refined, in samples", "method", "wrong→right", "all wrong→right", "right→wrong",
        "refinement gap",
    )  # fmt: skip
    for one in summary.flips:
        gap = gaps[one.method]
        unaided = one.by_correct[0]
        table.add_row(
            one.method,
            str(one.gained),
            f"{unaided.gained} of {unaided.samples}",
            str(one.lost),
            "–" if gap is None else gap.signed,
        )
    return table


def _orders(summary: Summary) -> Table:
    table = _table(
        "orders of the same candidates", "method", "orders", "accuracy", "other answer",
        "other grade", "ever right", "always right",
    )  # fmt: skip
    for one in summary.orders:
        shares = (one.answer_changes, one.grade_changes, one.ever_right, one.always_right)
        table.add_row(
            one.methods[0],
            str(len(one.methods)),
            f"{min(one.accuracy):.3f} to {max(one.accuracy):.3f}",
            *(_mean(share) for share in shares),
        )
    return table


def _mixtures(summary: Summary) -> Table:
    table = _table(
        "candidates of other pools", "pool", "share", "accuracy [95 %]", "copied", "minus own alone"
    )
    for one in summary.mixtures:
        table.add_row(
            one.method if one.pool == "own" else one.pool,
            f"{one.share:.0%}",
            _plain(one.accuracy),
            _mean(one.copied),
            "" if one.difference is None else one.difference.interval.signed,
        )
    return table


def _repeats(summary: Summary) -> Table:
    """Spread of accuracy and cost; empty with one repeat."""
    anchors = list(dict.fromkeys(one.method for one in summary.duels))[:1]
    lost = {one.other: one for one in summary.duels if one.method in anchors}
    table = _table(
        f"over {summary.repeats} repeats", "method", "accuracy ± sd", "lowest to highest",
        "tokens ± sd", "sequential ± sd", *(f"below {name}" for name in anchors),
    )  # fmt: skip
    for one in summary.repeated if summary.repeats > 1 else ():
        accuracy, duel = one.accuracy, lost.get(one.method)
        table.add_row(
            one.method,
            f"{accuracy.mean:.3f} ± {accuracy.sd or 0.0:.3f}",
            f"{accuracy.lowest:.3f} to {accuracy.highest:.3f}",
            f"{one.total.mean:,.0f} ± {one.total.sd or 0.0:,.1f}",
            f"{one.sequential.mean:,.0f} ± {one.sequential.sd or 0.0:,.1f}",
            *([f"{duel.won} of {summary.repeats}" if duel else ""] if anchors else []),
        )
    return table


def _phases(summary: Summary) -> Table:
    table = _table(
        f"selfref@{summary.headline} end to end, measured", "layout", "phase", "tokens computed",
        "tokens reused", "seconds",
    )  # fmt: skip
    before = None
    for one in summary.phases:
        name = "" if one.layout == before else f"{one.layout} ({one.problems} problems)"
        before = one.layout
        table.add_row(name, one.phase, f"{one.computed:,}", f"{one.reused:,}", f"{one.seconds:.2f}")
    return table


def _plain(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _mean(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.mean:.3f}"


def _p_value(p_value: float) -> str:
    return "<.001" if p_value < 0.001 else f"{p_value:.3f}"
