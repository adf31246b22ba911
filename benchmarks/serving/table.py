"""The tables and the picture of `benchmarks.serving`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt  # after the backend is chosen
from rich.table import Table

from benchmarks.serving.arrivals import Cell
from benchmarks.serving.overhead import Overhead

mpl.use("Agg")

LEAST_THROUGHPUT = 0.97
MOST_FIRST_MS = 5.0


def arrivals_table(cells: Sequence[Cell]) -> Table:
    """A row for every method at every rate."""
    table = Table(title="a refined answer, problems arriving at random", title_justify="left")
    table.add_column("arrivals/s", justify="right")
    table.add_column("method", no_wrap=True)
    for name in ("p50 s", "p95 s", "answers/s", "KV pages at peak"):
        table.add_column(name, justify="right")
    rate = None
    for cell in cells:
        if rate not in (None, cell.rate):
            table.add_section()
        table.add_row(
            "" if rate == cell.rate else f"{cell.rate:.2f}",
            cell.method,
            f"{cell.percentile(50):.2f}",
            f"{cell.percentile(95):.2f}",
            f"{cell.answers_per_second:.2f}",
            f"{cell.peak_pages:,}",
        )
        rate = cell.rate
    return table


def overhead_table(overhead: Overhead) -> Table:
    """Both checks, with what they aim at."""
    table = Table(title="what HTTP costs", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("in process", "over HTTP", "", "aim"):
        table.add_column(name, justify="right")
    inside, outside = (overhead.tokens / one for one in (overhead.inside, overhead.outside))
    table.add_row(
        "tokens/s",
        f"{inside:,.0f}",
        f"{outside:,.0f}",
        f"{overhead.throughput:.3f}×",
        f"≥ {LEAST_THROUGHPUT}×",
    )
    first = (1e3 * overhead.first_inside, 1e3 * overhead.first_outside)
    table.add_row(
        "ms to the first token",
        *(f"{one:.2f}" for one in first),
        f"{overhead.first_ms:+.2f}",
        f"≤ {MOST_FIRST_MS:g}",
    )
    return table


def plot_arrivals(cells: Sequence[Cell], title: str, path: Path) -> None:
    """Three panels into one PNG: seconds to the answer, answers/s and KV pages over the rate."""
    figure, (seconds, answers, pages) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for number, method in enumerate(dict.fromkeys(cell.method for cell in cells)):
        mine = [cell for cell in cells if cell.method == method]
        rates, colour = [cell.rate for cell in mine], f"C{number}"
        seconds.plot(rates, [one.percentile(50) for one in mine], "-o", color=colour, label=method)
        seconds.plot(rates, [one.percentile(95) for one in mine], "--s", color=colour, mfc="none")
        answers.plot(rates, [one.answers_per_second for one in mine], "-o", color=colour)
        pages.plot(rates, [one.peak_pages for one in mine], "-o", color=colour)
    for axes, label in (
        (seconds, "seconds to the answer (p50; p95 dashed)"),
        (answers, "answers/s"),
        (pages, "KV pages at peak"),
    ):
        axes.set(xlabel="problems/s that arrive", ylabel=label)
        axes.set_ylim(bottom=0)
    seconds.legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
