"""A summary as tables for a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.analysis.comparisons import Difference
from benchmarks.analysis.intervals import Interval
from benchmarks.analysis.strata import Strata
from benchmarks.analysis.summary import Summary

_MANY = 8
"""More columns of figures than this do not fit."""


def show_summary(console: Console, summary: Summary) -> None:
    """What there is to say about a run; accuracy stands beside cost.

    Methods at another k than the headline's stand in the table over k alone, other orders and mixed
    pools in tables of their own.
    """
    for part in _parts(summary):
        console.print(part, markup=False, highlight=False)


def _main(summary: Summary) -> set[str]:
    """Methods at the headline k, and at 1, that have no table of their own."""
    elsewhere = {name for one in summary.orders for name in one.methods[1:]}
    elsewhere |= {one.method for one in summary.mixtures if one.pool != "own"}
    return {row.name for row in summary.methods if row.k in (1, summary.headline)} - elsewhere


def _parts(summary: Summary) -> Iterator[Table | str]:
    main = _main(summary)
    yield _methods(summary, main)
    yield "\n".join(_legend(summary))
    tables = (
        _over_k(summary),
        _differences(summary, main),
        _budgets(summary, main),
        *(_strata(one) for one in summary.strata),
        _flips(summary, main),
        _orders(summary),
        _views(summary),
        _mixtures(summary),
        _repeats(summary, main),
        _phases(summary),
    )
    yield from (table for table in tables if table.row_count)


def _table(title: str, first: str, *columns: str) -> Table:
    """The first column holds names, the others figures."""
    table = Table(
        title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        padding=(0, 1), pad_edge=False,
    )  # fmt: skip
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _methods(summary: Summary, main: set[str]) -> Table:
    repeats = f", {summary.repeats} repeats" if summary.repeats > 1 else ""
    title = f"{summary.model}, {summary.task}: {summary.problems} problems{repeats}"
    columns = ("accuracy [95 %]", "tokens", "sequential", "cut", "no answer", "saved")
    table = _table(title, "method", *columns)
    for row in summary.methods:
        if row.name in main:
            table.add_row(
                row.name,
                str(row.accuracy),
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
    yield "tokens: computed per problem, prompts and candidates included"
    yield "sequential: of these, generated one after the other (latency)"
    yield f"over k: maj, best-of-k and pass@k are means over all choices among {summary.drawn}"
    if summary.window:
        yield f"confidence: of the drawn tokens, in groups of {summary.window}"
    for note in summary.notes:
        yield f"note: {note}"
    for problem, reason in summary.left_out:
        yield f"left out: problem {problem}: {reason}"


def _over_k(summary: Summary) -> Table:
    """Accuracy and cost of each family over k; only families with several."""
    ks = sorted({k for k in summary.ks if k > 1})
    table = _table("over k", "family", *(f"k={k}" for k in ks))
    families = dict.fromkeys(point.family for point in summary.curve)
    for family in families:
        by_k = {point.k: point for point in summary.curve if point.family == family}
        if len(by_k) > 1:
            cells = (by_k.get(k) for k in ks)
            table.add_row(family, *(_mean(one.accuracy if one else None) for one in cells))
    return table


def _differences(summary: Summary, main: set[str]) -> Table:
    """The headline refinements, a column each, minus every other main method."""
    by_pair = {(one.method, one.other): one for one in summary.differences}
    title = "paired differences [95 %, clustered by problem] and McNemar's p"
    table = _table(title, "method", *(f"{name} minus it" for name in summary.anchors))
    for row in summary.methods:
        cells = [by_pair.get((name, row.name)) for name in summary.anchors]
        if row.name in main and any(cells):
            table.add_row(row.name, *(_difference(one) for one in cells))
    return table


def _difference(one: Difference | None) -> str:
    if one is None:
        return ""
    p_value = "" if one.p_value is None else _p_value(one.p_value)
    return f"{one.interval.signed} {p_value:>5}"


def _budgets(summary: Summary, main: set[str]) -> Table:
    columns = ("equal", "tokens", "majority", "its tokens", "method minus it [95 %]")
    table = _table("majority at equal cost", "method", *columns)
    for one in (one for one in summary.budgets if one.method in main):
        table.add_row(
            one.method if one.axis == "total" else "",
            one.axis,
            f"{one.tokens:,.0f}",
            f"maj@{one.k}" + ("*" if one.all_drawn else ""),
            f"{one.majority_tokens:,.0f}",
            one.difference.interval.signed,
        )
    if table.row_count and any(one.all_drawn for one in summary.budgets):
        table.caption = "* all that were drawn: majority could have spent more"
        table.caption_justify = "left"
    return table


def _strata(strata: Strata) -> Table:
    """Methods down and strata across; the other way round if there are many strata."""
    rows = [row for row in strata.rows if row.samples]
    names = list(dict.fromkeys(name for row in rows for name in row.accuracy))
    title = f"by {strata.by}" + (f" of {strata.k}" if strata.k else "")
    if len(rows) <= _MANY:
        table = _table(title, "method", *(f"{row.label} ({row.samples})" for row in rows))
        for name in names:
            table.add_row(name, *(_mean(row.accuracy.get(name)) for row in rows))
        return table
    table = _table(title, strata.by, "samples", *names)
    for row in rows:
        table.add_row(row.label, str(row.samples), *(_mean(row.accuracy.get(n)) for n in names))
    return table


def _flips(summary: Summary, main: set[str]) -> Table:
    """Against the majority of the same candidates; flips are counted in samples."""
    beside = {(one.method, one.other): one for one in summary.differences}
    columns = ("minus it [95 %], p", "gained", "at Nc=0", "lost", "gap")
    title = "against the majority of as many candidates; gained: wrong→right, lost: right→wrong"
    table = _table(title, "method", *columns)
    for one, gap in zip(summary.flips, summary.gaps, strict=True):
        if one.method not in main:
            continue
        unaided = one.by_correct[0]
        table.add_row(
            one.method,
            _difference(beside[one.method, gap.majority]),
            str(one.gained),
            f"{unaided.gained} of {unaided.samples}",
            str(one.lost),
            "–" if gap.interval is None else f"{gap.interval.mean:+.3f}",
        )
    return table


def _views(summary: Summary) -> Table:
    table = _table("whole candidates shown", "method", "minus summaries shown")
    for one in summary.views:
        table.add_row(one.method, _difference(one))
    return table


def _orders(summary: Summary) -> Table:
    columns = ("orders", "accuracy", "other answer", "other grade", "ever right", "always right")
    table = _table("orders of the same candidates", "method", *columns)
    for one in summary.orders:
        shares = (one.answer_changes, one.grade_changes, one.ever_right, one.always_right)
        table.add_row(
            one.methods[0],
            str(len(one.methods)),
            f"{min(one.accuracy):.3f}–{max(one.accuracy):.3f}",
            *(_mean(share) for share in shares),
        )
    return table


def _mixtures(summary: Summary) -> Table:
    columns = ("share", "accuracy [95 %]", "copied", "minus own alone")
    table = _table("candidates of other pools", "pool", *columns)
    for one in summary.mixtures:
        table.add_row(
            one.method if one.pool == "own" else one.pool,
            f"{one.share:.0%}",
            str(one.accuracy),
            _mean(one.copied),
            "" if one.difference is None else one.difference.interval.signed,
        )
    return table


def _repeats(summary: Summary, main: set[str]) -> Table:
    """Spread of accuracy and cost of the main methods; empty with one repeat."""
    anchors = summary.anchors[:1]
    duels = {one.other: one for one in summary.duels if one.method in anchors}
    columns = ("accuracy ± sd", "tokens ± sd", "sequential ± sd")
    beaten = (f"{name} above it" for name in anchors)
    table = _table(f"over {summary.repeats} repeats", "method", *columns, *beaten)
    for one in summary.repeated if summary.repeats > 1 else ():
        if one.method not in main:
            continue
        accuracy, duel = one.accuracy, duels.get(one.method)
        table.add_row(
            one.method,
            f"{accuracy.mean:.3f} ± {accuracy.sd or 0.0:.3f}",
            f"{one.total.mean:,.0f} ± {one.total.sd or 0.0:,.1f}",
            f"{one.sequential.mean:,.0f} ± {one.sequential.sd or 0.0:,.1f}",
            *([f"{duel.won} of {summary.repeats}" if duel else ""] if anchors else []),
        )
    return table


def _phases(summary: Summary) -> Table:
    title = f"selfref@{summary.headline} end to end, measured"
    table = _table(title, "layout", "phase", "tokens computed", "tokens reused", "seconds")
    before = None
    for one in summary.phases:
        name = "" if one.layout == before else f"{one.layout} ({one.problems} problems)"
        before = one.layout
        counts = f"{one.computed:,}", f"{one.reused:,}", f"{one.seconds:.2f}"
        table.add_row(name, one.phase, *counts)
    return table


def _mean(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.mean:.3f}"


def _p_value(p_value: float) -> str:
    return "<.001" if p_value < 0.001 else f"{p_value:.3f}"
