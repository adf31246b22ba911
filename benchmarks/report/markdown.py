"""A report as Markdown: the tables for a pull request or an appendix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.report.blocks import Block, Plot, Report, Table

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")


def markdown(reports: Sequence[Report], picture: str, overview: Table | None = None) -> str:
    """All runs, one after the other.

    Args:
        reports: of the runs.
        picture: the PNG beside this file.
        overview: of several runs.
    """
    parts = ["# Several runs", *_blocks([overview])] if overview else []
    for report in reports:
        parts += [f"# {_plain(report.name)}", _plain(report.lead)]
        if report is reports[0]:
            parts.append(f"![accuracy against cost, strata, k]({picture})")
        parts += _blocks(report.blocks)
        parts.append("## How it was run")
        parts.append(_rows([("", ""), *((fact.name, fact.value) for fact in report.facts)], "ll"))
    return "\n\n".join(parts) + "\n"


def _blocks(blocks: Sequence[Block]) -> Iterator[str]:
    title = None
    for block in blocks:
        folded = isinstance(block, Table) and block.folded
        if folded:
            yield f"<details><summary>{escape(block.title)}</summary>"
        elif block.title != title:
            yield f"## {_plain(block.title)}"
        title = block.title
        yield _table(block) if isinstance(block, Table) else _points(block)
        if block.note:
            yield _plain(block.note)
        if folded:
            yield "</details>"


def _table(table: Table) -> str:
    rows = [table.columns, *([cell.text for cell in row] for row in table.rows)]
    return _rows(rows, "l" + "r" * (len(table.columns) - 1))


def _points(plot: Plot) -> str:
    """The points of a plot as a table."""
    head = [*(axis.label for axis in plot.axes), "accuracy [95 %]"]
    rows = [
        [point.label, *(f"{value:,.4g}" for value in point.at), _share(*point.scale)]
        for series in plot.series
        for point in series.points
    ]
    return _rows([["", *head], *rows], "l" + "r" * len(head))


def _share(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]" if high > low else f"{value:.3f}"


def _rows(rows: Sequence[Sequence[str]], sides: str) -> str:
    """The first row is the head; `sides` has `l` or `r` for every column."""
    rule = ["---:" if side == "r" else "---" for side in sides]
    head, *body = [[_plain(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
