"""The picture of the scaling report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt  # after the backend is chosen

from benchmarks.scaling.host import HostShare
from benchmarks.scaling.queue import QueueCost

mpl.use("Agg")


def plot_scaling(queues: Sequence[QueueCost], share: HostShare, path: Path) -> None:
    """Two panels into one PNG: queue and host."""
    figure, (queue, host) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    _plot_queue(queue, queues)
    _plot_host(host, share)
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
