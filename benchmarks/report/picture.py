"""The plots of a report as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt  # after the backend is chosen

from benchmarks.report.blocks import Plot, Report

mpl.use("Agg")

_LINES = {"refined": "-o", "bound": ":", "other": "--."}


def write_picture(path: Path, reports: Sequence[Report]) -> None:
    """A row of panels for every run: each plot over each of its axes."""
    panels = [
        [(plot, axis) for plot in report.blocks if isinstance(plot, Plot)
         for axis in range(len(plot.axes))]
        for report in reports
    ]
    width = max(map(len, panels))
    figure, grid = plt.subplots(
        len(reports),
        width,
        figsize=(4.6 * width, 4.2 * len(reports)),
        layout="constrained",
        squeeze=False,
    )
    for report, mine, row in zip(reports, panels, grid, strict=True):
        row[0].set_title(report.name.replace("$", r"\$"), loc="left", fontsize=10)
        for axes, (plot, axis) in zip(row, mine, strict=False):
            _panel(axes, plot, axis)
        for axes in row[len(mine) :]:
            axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})  # equal input, equal bytes
    plt.close(figure)


def _panel(axes: Any, plot: Plot, axis: int) -> None:
    for number, series in enumerate(plot.series):
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
            color=f"C{number % 10}",
            capsize=2,
            lw=1.2,
            ms=4 if series.role == "refined" else 6,
            elinewidth=0.6,
            label=series.name.replace("$", r"\$"),
        )
    if plot.axes[axis].log:
        axes.set_xscale("log")
    if plot.ticks:
        axes.set_xticks(plot.ticks, [f"{tick:g}" for tick in plot.ticks])
        axes.minorticks_off()
    axes.set(xlabel=plot.axes[axis].label, ylabel="accuracy")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7)
