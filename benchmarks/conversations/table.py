"""The tables of `benchmarks.conversations`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.conversations.comparison import CALLERS, Outcome


def show(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print what the calls took, what was reused, and whether all callers drew the same tokens."""
    for table in (_times(outcomes), _reuse(outcomes), _agreement(outcomes)):
        console.print(table)


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("model", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    return table


def _what(outcome: Outcome) -> str:
    script = outcome.script
    if script.work == "chat":
        return f"{outcome.subject}, {script.calls} turns of {script.added} + {script.generated}"
    return f"{outcome.subject}, {script.calls:,} tokens one by one"


def _times(outcomes: Sequence[Outcome]) -> Table:
    table = _table("what a call takes", "caller", "ms, first tenth", "ms, last tenth", "s in all")
    table.columns[1].no_wrap = True
    for outcome in outcomes:
        for name in CALLERS:
            whole = len(outcome.ms[name]) == outcome.script.calls
            table.add_row(
                _what(outcome) if name == CALLERS[0] else "",
                name,
                *(f"{outcome.tenth(name, last=last):,.2f}" for last in (False, True)),
                f"{sum(outcome.ms[name]) / 1e3:,.2f}" if whole else "–",
            )
        table.add_section()
    return table


def _reuse(outcomes: Sequence[Outcome]) -> Table:
    columns = ("reused", "of tokens", "%", "pages in use", "cached", "last call", "its tokens fill")
    table = _table("what is reused; pages at the end", *columns)
    for outcome in outcomes:
        share = 100 * outcome.reused / outcome.reusable if outcome.reusable else 100.0
        table.add_row(
            _what(outcome),
            f"{outcome.reused:,}",
            f"{outcome.reusable:,}",
            f"{share:.1f}",
            f"{outcome.pages['used']:,}",
            f"{outcome.pages['cached']:,}",
            f"{outcome.last_pages:,}",
            f"{outcome.fewest_pages:,}",
        )
    return table


def _agreement(outcomes: Sequence[Outcome]) -> Table:
    columns = ("tokens", "unlike transformers", "beyond a tie", "calls unlike without cache")
    table = _table("are the tokens the same", *columns)
    for outcome in outcomes:
        table.add_row(
            _what(outcome),
            f"{outcome.generated:,}",
            f"{outcome.differing:,}",
            f"{outcome.beyond_ties:,}",
            f"{outcome.uncached_differing:,} of {len(outcome.sampled):,}",
        )
    return table
