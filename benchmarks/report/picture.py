"""The plots of a report as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt  # after the backend is chosen
from matplotlib.ticker import LogLocator

from benchmarks.report.blocks import Plot, Report

mpl.use("Agg")

_LINES = {"refined": "-o", "bound": ":", "other": "--."}


def write_picture(path: Path, reports: Sequence[Report]) -> None:
    """Each plot over each of its axes: of one run two in a row, of several a row for each run."""
    rows: list[list[tuple[Plot, int]]] = []
    titles: list[str] = []
    for report in reports:
        plots = [block for block in report.blocks if isinstance(block, Plot)]
        panels = [(plot, axis) for plot in plots for axis in range(len(plot.axes))]
        width = 2 if len(reports) == 1 else max(1, len(panels))
        parts = [panels[start : start + width] for start in range(0, len(panels), width)] or [[]]
        rows += parts
        titles += [report.name, *[""] * (len(parts) - 1)]
    width = max(1, *map(len, rows))
    figure, grid = plt.subplots(
        len(rows),
        width,
        figsize=(5.2 * width, 4 * len(rows)),
        layout="constrained",
        squeeze=False,
    )
    for title, row, places in zip(titles, rows, grid, strict=True):
        places[0].set_title(_literal(title), loc="left", fontsize=10)
        for place, (plot, axis) in zip(places, row, strict=False):
            _panel(place, plot, axis)
        for place in places[len(row) :]:
            place.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})  # equal input, equal bytes
    plt.close(figure)


def _literal(text: str) -> str:
    """Text that is no formula."""
    return text.replace("$", r"\$")


def _panel(axes: Any, plot: Plot, axis: int) -> None:
    for series in plot.series:
        if not series.shown:
            continue
        points = sorted(series.points, key=lambda point: point.at[axis])
        shares = [point.scale[0] for point in points]
        bars = [
            [share - point.scale[1] for share, point in zip(shares, points, strict=True)],
            [point.scale[2] - share for share, point in zip(shares, points, strict=True)],
        ]
        axes.errorbar(
            [point.at[axis] for point in points],
            shares,
            yerr=bars,
            fmt=_LINES[series.role],
            color=f"C{series.colour % 10}",
            capsize=2,
            lw=1.2,
            ms=4 if series.role == "refined" else 6,
            elinewidth=0.5,
            label=_literal(series.name),
        )
    if plot.axes[axis].log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.minorticks_off()
    if plot.ticks:
        axes.set_xticks(plot.ticks, [f"{tick:g}" for tick in plot.ticks])
        axes.minorticks_off()
    axes.set(xlabel=plot.axes[axis].label, ylabel="accuracy")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, framealpha=0.6)
