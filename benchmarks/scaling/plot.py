"""The picture of the scaling report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt  # after the backend is chosen

from benchmarks.scaling.growth import AXES, Cost
from benchmarks.scaling.host import HostShare
from benchmarks.scaling.queue import QueueCost
from gsr_engine.params import LAYOUTS

mpl.use("Agg")

_COLOURS = dict(zip(LAYOUTS, ("tab:blue", "tab:orange"), strict=True))


def plot_scaling(
    queues: Sequence[QueueCost], share: HostShare, costs: Sequence[Cost], path: Path
) -> None:
    """Six panels into one PNG: queue, host, and the four axes of growth."""
    figure, panels = plt.subplots(2, 3, figsize=(14, 7.5), layout="constrained")
    queue, host, *growth = panels.flat
    _plot_queue(queue, queues)
    _plot_host(host, share)
    for axes, axis in zip(growth, AXES, strict=True):
        _plot_growth(axes, axis, [cost for cost in costs if cost.axis == axis])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_queue(axes: Any, queues: Sequence[QueueCost]) -> None:
    for deadlines, label in ((False, "no deadlines"), (True, "all with a deadline")):
        mine = [cost for cost in queues if cost.deadlines == deadlines]
        # Names, not numbers: the shortest queue may be empty, and a log scale has no 0.
        axes.plot([f"{c.waiting:,}" for c in mine], [c.step_us for c in mine], "-o", label=label)
    axes.set(xlabel="requests in the queue", ylabel="plan + commit, µs per step")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def _plot_host(axes: Any, share: HostShare) -> None:
    names = list(share.parts)
    bars = axes.barh(names, [100 * ms / share.step_ms for ms in share.parts.values()])
    axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel=f"% of a decode step, {share.shape} shape, {share.streams} streams")


def _plot_growth(axes: Any, axis: str, costs: Sequence[Cost]) -> None:
    """Seconds as full lines on the left axis, tokens dashed on the right; both start at zero."""
    values = [cost.value for cost in costs]
    right = axes.twinx()
    for layout in LAYOUTS:
        colour = _COLOURS[layout]
        axes.plot(values, [c.seconds[layout] for c in costs], "-o", color=colour, label=layout)
        right.plot(values, [c.tokens[layout] for c in costs], "--", color=colour, lw=1)
    axes.set(xlabel=AXES[axis], ylabel="seconds", xticks=values)
    right.set_ylabel("computed tokens (dashed)")
    for side in (axes, right):
        side.set_ylim(bottom=0)
    axes.legend(fontsize=8)
