"""The tables of `benchmarks.latency`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from benchmarks.latency.cell import Cell
from benchmarks.latency.figures import PHASES, Figures, Grades
from benchmarks.steadiness import TOLERANCE

WIDTH = 170


def show(
    console: Console,
    found: Sequence[Figures],
    left_out: Mapping[Cell, str],
    deadline: float | None,
) -> None:
    """All tables that have something to say, and what has no figures."""
    graded = [(one, one.grades) for one in found if one.grades is not None]
    if graded:
        console.print(_worth(graded, deadline))
    if found:
        console.print(_speed(found, deadline))
        console.print(_phases(found))
    if any(one.busy for one in found):
        console.print(
            f"* others used the machine: a fixed product took more than {TOLERANCE} times its best"
        )
    for cell, reason in left_out.items():
        console.print(f"left out: {cell}: {reason}", markup=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("load", no_wrap=True)
    table.add_column("system", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _worth(found: Sequence[tuple[Figures, Grades]], deadline: float | None) -> Table:
    """Accuracy beside latency: which k is worth it."""
    within = [] if deadline is None else [f"right/s in {deadline:g} s"]
    table = _table(
        "which k is worth its latency (accuracy with 95 % intervals; seconds are p50)",
        *("k", "pass@1", "maj@k", "after s", "selfRef@k", "after s", "over the least k"),
        *("tokens", "right/s", *within),
    )
    for (load, system), lines in _grouped(table, [one for one, _ in found]):
        for one in lines:
            grades = one.grades
            if grades is None:
                continue
            table.add_row(
                load,
                system,
                str(one.cell.k),
                f"{grades.pass_at_1.mean:.3f}",
                f"{grades.majority.mean:.3f}",
                f"{one.voted:.3f}",
                str(grades.selfref),
                f"{one.answered.p50:.3f}",
                "" if grades.gain is None else grades.gain.signed,
                f"{one.generated:,.0f}",
                f"{grades.right_per_second:.2f}",
                *([] if grades.good_per_second is None else [f"{grades.good_per_second:.2f}"]),
            )
            load = system = ""
    return table


def _speed(found: Sequence[Figures], deadline: float | None) -> Table:
    within = [] if deadline is None else [f"answers/s in {deadline:g} s"]
    table = _table(
        "latency and throughput (first tokens are p50)",
        *("k", "lengths", "first token", "first refined", "p50 s", "p90 s", "p99 s"),
        *("spread", "answers/s", "tokens/s", *within),
    )
    for (load, system), lines in _grouped(table, found):
        for one in lines:
            table.add_row(
                load,
                system + ("*" if one.busy else ""),
                str(one.cell.k),
                one.cell.work,
                f"{one.first_token:.3f}",
                f"{one.first_refined:.3f}",
                *(f"{s:.3f}" for s in (one.answered.p50, one.answered.p90, one.answered.p99)),
                "" if one.rounds == 1 else f"{one.spread:.2f}",
                f"{one.answers_per_second:.2f}",
                f"{one.tokens_per_second:,.0f}",
                *([] if one.goodput is None else [f"{one.goodput:.2f}"]),
            )
            load = ""
    return table


def _phases(found: Sequence[Figures]) -> Table:
    table = _table(
        "where an answer's seconds go (means, which add up), and what it takes",
        *("k", "lengths", *PHASES, "ms/token", "ms/refined", "generated", "computed", "pages"),
    )
    for (load, system), lines in _grouped(table, found):
        for one in lines:
            table.add_row(
                load,
                system,
                str(one.cell.k),
                one.cell.work,
                *(f"{one.phases[name]:.3f}" for name in PHASES),
                _known(None if one.candidate_tpot is None else 1e3 * one.candidate_tpot, ".2f"),
                _known(None if one.refine_tpot is None else 1e3 * one.refine_tpot, ".2f"),
                f"{one.generated:,.0f}",
                _known(one.computed, ",.0f"),
                _known(one.peak_pages, ",d"),
            )
            load = system = ""
    return table


def _grouped(
    table: Table, found: Sequence[Figures]
) -> Iterator[tuple[tuple[str, str], list[Figures]]]:
    """Cells of one load and system, k by k; a line is drawn between two loads."""
    order = {one.cell.load: None for one in found}
    systems = {one.cell.system: None for one in found}
    places = [(load, system) for load in order for system in systems]
    lines = sorted(
        found,
        key=lambda one: (
            places.index((one.cell.load, one.cell.system)),
            one.cell.lengths or (),
            one.cell.k,
        ),
    )
    before = ""
    for (load, system), group in groupby(lines, lambda one: (one.cell.load, one.cell.system)):
        if before not in ("", load):
            table.add_section()
        yield ("" if before == load else load, system), list(group)
        before = load


def _known(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
