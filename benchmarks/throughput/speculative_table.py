"""The table of `benchmarks.throughput --speculative`."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.steadiness import TOLERANCE
from benchmarks.throughput.lookup_comparison import WITH, WITHOUT


def show(console: Console, run: dict[str, Any]) -> None:
    """Print a row for each case, and the machine."""
    console.print(_table(run))
    console.print(f"{run['chip']}; " + ", ".join(f"{n} {v}" for n, v in run["machine"].items()))


def _table(run: dict[str, Any]) -> Table:
    settings = ", ".join(f"{name} {value}" for name, value in run["speculative_config"].items())
    caption = (
        "× is without / with; refine s is the decoding of the refinements of given candidates; "
        "a step is one of one stream\n"
        "same: problems with equal tokens in all runs; graphs: shapes of steps that were captured "
        "by the end of the case, without and with"
    )
    if any(not case["steady"] for case in run["cases"]):
        caption += (
            "\n! the machine was busy in all runs of a kind: before or after each a fixed product "
            f"took more than {TOLERANCE} times its best"
        )
    table = Table(
        title=f"this engine without and with lookup decoding ({settings})",
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    for column in ("model", "data", "work", "layout", "in"):
        table.add_column(column, no_wrap=True)
    for what in ("seconds", "refine s"):
        for column in (f"{what}\nwithout", "with", "×"):
            table.add_column(column, justify="right")
    for column in ("tokens", "per step", "proposed", "accepted", "same", "graphs", "spread"):
        table.add_column(column, justify="right", no_wrap=True)
    for case in run["cases"]:
        table.add_row(*_row(case))
    return table


def _row(case: dict[str, Any]) -> list[str]:
    counts, graphs = case["refinements"], case["num_graphs"]
    return [
        *(case[name] for name in ("model", "data", "work", "layout")),
        case["arithmetic"]["name"],
        *_ratio(case["seconds"]),
        *_ratio(case["decode_seconds"]),
        str(counts["tokens"]),
        f"{counts['tokens_per_step']:.2f}",
        str(counts["proposed"]),
        str(counts["accepted"]),
        f"{case['same']} of {case['problems']}",
        f"{graphs[WITHOUT]}, {graphs[WITH]}" if max(graphs.values()) else "-",
        f"{case['spread']:.2f}{'' if case['steady'] else ' !'}",
    ]


def _ratio(seconds: dict[str, float]) -> list[str]:
    without, with_lookup = seconds[WITHOUT], seconds[WITH]
    return [f"{without:.2f}", f"{with_lookup:.2f}", f"{without / with_lookup:.2f}"]
