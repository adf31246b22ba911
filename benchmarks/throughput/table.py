"""The tables of `benchmarks.throughput`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.peers.run import PEERS

BASELINE = "transformers"


def rate(result: dict[str, Any]) -> float:
    """Generated tokens per second, end to end."""
    seconds: float = result["seconds_candidates"] + result["seconds_refine"]
    return float(result["tokens"]) / seconds


def best_peer(results: dict[str, dict[str, Any]]) -> str | None:
    """The name of the fastest peer that gave figures."""
    there = [name for name in PEERS if name in results]
    return max(there, key=lambda name: rate(results[name]), default=None)


def show(console: Console, run: dict[str, Any]) -> None:
    """Print the engines' table, the machine's limits, and what was skipped."""
    console.print(_engines(run))
    console.print(_limits(run["limits"]))
    console.print(f"copy bandwidth {run['limits']['copy_gb']:.1f} GB/s (read and written)")
    for name, reason in run["skipped"].items():
        console.print(f"{name}: {reason}")
    console.print(", ".join(f"{name} {value}" for name, value in run["machine"].items()))


def _engines(run: dict[str, Any]) -> Table:
    work, results = run["work"], run["results"]
    title = (
        f"selfRef@{work['k']}, {work['shape']} in {work['dtype']}, {work['problems']} problems of "
        f"{work['prompt']} tokens, candidates of {work['candidate']}, refinements of "
        f"{work['refine']}"
    )
    best = best_peer(results)
    caption = f"best peer: {best}" if best else "no peer gave figures"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("engine", no_wrap=True)
    columns = ("tokens/s", "candidates s", "refine s", f"× {BASELINE}", "× best peer")
    for column in columns:
        table.add_column(column, justify="right")
    for name, result in results.items():
        against = [
            f"{rate(result) / rate(results[other]):.2f}" if other in results else "-"
            for other in (BASELINE, best)
        ]
        seconds = [f"{result[f'seconds_{phase}']:.1f}" for phase in ("candidates", "refine")]
        table.add_row(name, f"{rate(result):.1f}", *seconds, *against)
    return table


def _limits(limits: dict[str, Any]) -> Table:
    table = Table(title="the products of one step alone", title_justify="left")
    for column in ("tokens", "ms", "ms, plain F.linear", "GFLOP/s", "GB/s of weights"):
        table.add_column(column, justify="right")
    for row in limits["products"]:
        table.add_row(
            str(row["rows"]),
            f"{1e3 * row['seconds']:.2f}",
            f"{1e3 * row['plain_seconds']:.2f}",
            f"{row['gflops']:.0f}",
            f"{row['weight_gb']:.1f}",
        )
    return table
