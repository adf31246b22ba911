"""The tables of `benchmarks.quantization`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 150


def show(console: Console, run: dict[str, Any]) -> None:
    """Print what a run measured."""
    if run["losses"]:
        console.print(_losses(run))
    if run["refinement"]:
        console.print(_refinement(run))
    console.print(run["chip"])
    console.print(", ".join(f"{name} {value}" for name, value in run["machine"].items()))


def _losses(run: dict[str, Any]) -> Table:
    title = f"{run['model']}: products in 8 bits over {run['tokens']} tokens of text"
    table = _table(title, "changes are against fp32; KL in nats")
    texts = list(run["losses"]["fp32"]["change_by_text"])
    table.add_column("variant", no_wrap=True)
    columns = ("loss", "change", *(f"of {text}" for text in texts), "KL", "same top token")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in run["losses"].items():
        changes = [row["change"], *(row["change_by_text"][text] for text in texts)]
        table.add_row(
            name,
            f"{row['loss']:.4f}",
            *(f"{change:+.4f}" for change in changes),
            f"{row['kl']:.4f}",
            f"{row['top1']:.3f}",
        )
    return table


def _refinement(run: dict[str, Any]) -> Table:
    title = f"nano: selfRef@4 over {run['puzzles']} held-out puzzles"
    table = _table(title, "share of right answers; change against fp32 [95 %, paired]")
    table.add_column("variant", no_wrap=True)
    for method in run["refinement"]["fp32"]:
        table.add_column(method, justify="right")
    for name, methods in run["refinement"].items():
        table.add_row(name, *(_score(score, name == "fp32") for score in methods.values()))
    return table


def _score(score: dict[str, Any], is_fp32: bool) -> str:
    share, change = f"{score['share']['mean']:.3f}", score["change"]
    if is_fp32:
        return share
    return f"{share}\n{change['mean']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"


def _table(title: str, caption: str) -> Table:
    return Table(title=title, title_justify="left", caption=caption, caption_justify="left")
