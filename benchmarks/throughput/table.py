"""The tables of `benchmarks.throughput`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.peers.run import PEERS
from benchmarks.steadiness import TOLERANCE

BASELINE = "transformers"
_PEERS = {name for names in PEERS.values() for name in names}
LOSS = 0.01
"""How much loss an engine may add to that of fp32 and still count as near it."""
WIDTH = 170


def rate(result: dict[str, Any]) -> float:
    """Generated tokens per second, end to end."""
    return float(result["tokens"]) / seconds(result)


def seconds(result: dict[str, Any]) -> float:
    """Until the answers are there."""
    return float(result["seconds_candidates"] + result["seconds_refine"])


def best_peer(results: dict[str, dict[str, Any]], near_fp32: bool = False) -> str | None:
    """The name of the fastest peer that gave figures.

    Args:
        results: of all engines.
        near_fp32: only of peers whose loss is at most `LOSS` above that of this engine unquantised.
            A peer that tells no loss counts if it is not quantised.
    """
    there = [
        name
        for name in results
        if name.split()[0] in _PEERS and (not near_fp32 or _is_near(name, results))
    ]
    return max(there, key=lambda name: rate(results[name]), default=None)


def _is_near(name: str, results: dict[str, dict[str, Any]]) -> bool:
    loss, exact = results[name]["loss"], results["linear"]["loss"]
    if loss is None or exact is None:
        return " " not in name
    return bool(loss <= exact + LOSS)


def show(console: Console, run: dict[str, Any]) -> None:
    """Print the engines' table, the limits, and what was skipped."""
    console.print(_engines(run))
    if run["floors"]:
        console.print(_floors(run))
    if limits := run.get("gpu_limits"):
        figures = ", ".join(f"{name} {value:.1f}" for name, value in limits.items())
        console.print(f"limits of {run['chip']}: {figures}")
    for precision, limits in run["limits"].items():
        console.print(_limits(precision, limits, run["chip"]))
        console.print(f"copy bandwidth {limits['copy_gb']:.1f} GB/s (read and written)")
    for name, reason in run["skipped"].items():
        console.print(f"{name}: {reason}")
    console.print(", ".join(f"{name} {value}" for name, value in run["machine"].items()))


def _engines(run: dict[str, Any]) -> Table:
    work, results = run["work"], run["results"]
    title = f"{work['subject']} in {work['dtype']}: {work['words']}"
    best, near = best_peer(results), best_peer(results, near_fp32=True)
    caption = f"best peer: {best}" if best else "no peer gave figures"
    if near:
        caption += f", near the loss of {work['dtype']}: {near}"
    caption += "; of several runs each phase's best, spread is the worst total over the best"
    if any(not result["steady"] for result in results.values()):
        caption += (
            f"\n! the machine was busy in all runs: before or after each a fixed product took more "
            f"than {TOLERANCE} times its best"
        )
    table = _table(title, caption)
    table.add_column("engine", no_wrap=True)
    columns = (
        "tokens/s",
        "seconds",
        "candidates s",
        "refine s",
        f"× {BASELINE}",
        "× best peer",
        "× near",
    )
    for column in (*columns, "loss", "spread", "steady runs"):
        table.add_column(column, justify="right")
    table.add_column("chip", no_wrap=True)
    for name, result in results.items():
        against = [
            f"{rate(result) / rate(results[other]):.2f}" if other in results else "-"
            for other in (BASELINE, best, near)
        ]
        phases = [f"{result[f'seconds_{phase}']:.2f}" for phase in ("candidates", "refine")]
        mark = "" if result["steady"] else " !"
        table.add_row(
            name,
            f"{rate(result):.1f}",
            f"{seconds(result):.2f}",
            *phases,
            *against,
            "-" if result["loss"] is None else f"{result['loss']:.4f}",
            f"{result['spread']:.2f}{mark}",
            f"{result['steady']} of {result['runs']}",
            run["chip"],
        )
    return table


def _floors(run: dict[str, Any]) -> Table:
    """What the products alone would take, and what is left to win."""
    results = run["results"]
    best = best_peer(results)
    table = _table("the products of the whole work alone", "× best peer: of the products alone")
    table.add_column("layout", no_wrap=True)
    columns = ("tokens/s", "candidates s", "refine s", "% of measured", "× best peer")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("chip", no_wrap=True)
    for name, floor in run["floors"].items():
        total = floor["candidates"] + floor["refine"]
        measured = results[name]
        against = f"{measured['tokens'] / total / rate(results[best]):.2f}" if best else "-"
        table.add_row(
            name,
            f"{measured['tokens'] / total:.1f}",
            f"{floor['candidates']:.2f}",
            f"{floor['refine']:.2f}",
            f"{100 * total / seconds(measured):.0f}",
            against,
            run["chip"],
        )
    return table


def _limits(precision: str, limits: dict[str, Any], chip: str) -> Table:
    table = _table(f"the products of one step alone, in {precision}")
    for column in ("tokens", "ms", "ms, plain F.linear", "GFLOP/s", "GB/s of weights"):
        table.add_column(column, justify="right")
    table.add_column("chip", no_wrap=True)
    rows = [(str(row["rows"]), row) for row in limits["products"]]
    rows.append((f"{limits['prefill']['rows']} without head", limits["prefill"]))
    for tokens, row in rows:
        table.add_row(
            tokens,
            f"{1e3 * row['seconds']:.2f}",
            f"{1e3 * row['plain_seconds']:.2f}",
            f"{row['gflops']:.0f}",
            f"{row['weight_gb']:.1f}",
            chip,
        )
    return table


def _table(title: str, caption: str | None = None) -> Table:
    return Table(title=title, title_justify="left", caption=caption, caption_justify="left")
