"""The tables of the scaling report."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.scaling.front import FrontCost
from benchmarks.scaling.host import HostShare
from benchmarks.scaling.queue import Fairness, QueueCost
from benchmarks.scaling.ragged import PARTS, RaggedCost

HOST_SHARE = 0.05
"""Largest share of a step that the host may take."""


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def show_queue(console: Console, costs: Sequence[QueueCost]) -> None:
    """The queue's table; ratios are to the shortest queue of the same kind."""
    table = _table(
        "queue: host time per step (plan + commit), model stubbed",
        "waiting",
        "deadlines",
        "µs / step",
        "ratio",
        "slowest of 100",
        "µs / submission",
        "bytes / request",
    )
    for cost in costs:
        first = next(one for one in costs if one.deadlines == cost.deadlines)
        table.add_row(
            f"{cost.waiting:,}",
            "all" if cost.deadlines else "none",
            f"{cost.step_us:,.0f}",
            f"{cost.step_us / first.step_us:.2f}",
            f"{cost.slowest_us:,.0f}",
            f"{cost.submit_us:,.0f}",
            f"{cost.request_bytes:,.0f}",
        )
    console.print(table)


def show_front(console: Console, costs: Sequence[FrontCost]) -> None:
    """The table of the asyncio front; ratios are to the fewest waiting clients."""
    table = _table(
        "front: processor time of the engine's thread from step to step, model stubbed",
        "waiting clients",
        "µs / turn",
        "ratio",
        "slowest of 100",
        "of them step",
        "front",
    )
    for cost in costs:
        table.add_row(
            f"{cost.waiting:,}",
            f"{cost.turn_us:,.0f}",
            f"{cost.turn_us / costs[0].turn_us:.2f}",
            f"{cost.slowest_us:,.0f}",
            f"{cost.step_us:,.0f}",
            f"{cost.turn_us - cost.step_us:,.0f}",
        )
    console.print(table)


def show_fairness(console: Console, rows: Sequence[Fairness]) -> None:
    """After how many later arrivals of a higher priority a request was finished."""
    table = _table(
        "fairness: one request of priority 0, an endless stream above it",
        "priority of the stream",
        "later arrivals until it finished",
        "bound",
        "",
    )
    for row in rows:
        kept = "kept" if row.arrivals <= row.bound else "missed"
        table.add_row(str(row.priority), f"{row.arrivals:,}", f"{row.bound:,}", kept)
    console.print(table)


def show_host(console: Console, share: HostShare) -> None:
    """Where the time of a decode step goes."""
    table = _table(
        f"host: a decode step of the {share.shape} shape, {share.streams} streams, "
        f"mean of {share.steps}",
        "part",
        "ms",
        "% of the step",
    )
    parts = {**share.parts, "host (all but model and draw)": share.host_ms, "step": share.step_ms}
    for name, ms in parts.items():
        table.add_row(name, f"{ms:,.2f}", f"{100 * ms / share.step_ms:.2f}")
    console.print(table)
    kept = "kept" if share.host_ms <= HOST_SHARE * share.step_ms else "missed"
    console.print(f"host below {HOST_SHARE:.0%} of the step: {kept}")


def show_ragged(console: Console, costs: Sequence[RaggedCost]) -> None:
    """The host's time per step by part, while streams join and leave."""
    table = _table(
        "ragged load: processor time of a step's host work in ms, prompts of their own, answers of "
        "50 to 500 tokens, model stubbed",
        "streams",
        *PARTS,
        "steps with a change",
        "lists without",
        "lists with",
    )
    for cost in costs:
        table.add_row(
            f"{cost.streams:,}",
            *(f"{cost.parts[part]:.3f}" for part in PARTS),
            f"{100 * cost.changed / cost.steps:.0f} %",
            *(f"{ms:.3f}" for ms in cost.lists_ms),
        )
    console.print(table)
