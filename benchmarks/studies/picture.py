"""The picture of the report: over k, by training, where no candidate is right, by quality."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt  # after the backend is chosen

from benchmarks.analysis.intervals import Interval
from benchmarks.studies.asked import LEVELS, none_right
from benchmarks.studies.question import LINEAR, MAJORITY, K, Runs
from benchmarks.studies.shown import POOL_NAMES, POOLS, SWEEP, mixed

mpl.use("Agg")


def draw(runs: Runs, path: Path) -> None:
    """One PNG with a panel for every part whose runs are finished; none if there are none."""
    parts: list[tuple[set[str], Callable[[Any, Runs], None]]] = [
        ({"nano"}, _over_k),
        ({"nano"}, _by_training),
        ({LEVELS.name}, _none_right),
        ({POOLS.name}, _by_pool),
    ]
    ready = [panel for needed, panel in parts if needed <= runs.keys()]
    if not ready:
        return
    size = (5.6 * len(ready), 4.2) if len(ready) < 4 else (11.2, 8.4)
    figure, axes = plt.subplots(
        1 if len(ready) < 4 else 2,
        len(ready) if len(ready) < 4 else 2,
        figsize=size,
        layout="constrained",
        squeeze=False,
    )
    for panel, one in zip(ready, axes.flat, strict=True):
        panel(one, runs)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _errors(axes: Any, x: Any, intervals: list[Interval], **style: Any) -> None:
    means = np.array([one.mean for one in intervals])
    below = means - [one.low for one in intervals]
    above = [one.high for one in intervals] - means
    axes.errorbar(x, means, yerr=[below, above], capsize=2, lw=1.2, **style)


def _over_k(axes: Any, runs: Runs) -> None:
    run = runs["nano"]
    for name, style in {
        "selfref linear": "-o",
        "selfref branched": "-s",
        "maj": "--.",
        "pass": ":.",
    }.items():
        _errors(axes, SWEEP, [run.accuracy(f"{name}@{k}") for k in SWEEP], fmt=style, label=name)
    axes.axvspan(1, 8, color="grey", alpha=0.1, label="k in training")
    axes.set(xlabel="k candidates", ylabel="accuracy", title="nano over k", xticks=SWEEP)
    axes.legend(fontsize=8)


def _by_training(axes: Any, runs: Runs) -> None:
    labels = {
        "early": "direct alone,\n600 steps",
        "direct": "direct alone,\n1,900 steps",
        "refine": "refinement\nalone",
        "nano": "hybrid",
        "wide": "hybrid,\nwider",
    }
    known = [one for one in labels if one in runs]
    x = np.arange(len(known))
    for shift, name in ((-0.2, "pass@1"), (0.0, MAJORITY), (0.2, LINEAR)):
        _errors(axes, x + shift, [runs[one].accuracy(name) for one in known], fmt="o", label=name)
    axes.set(title="by training", ylabel="accuracy", ylim=(-0.02, 1.02))
    axes.set_xticks(x, [labels[one] for one in known], fontsize=8)
    axes.legend(fontsize=8)


def _none_right(axes: Any, runs: Runs) -> None:
    run = runs[LEVELS.name]
    parts = [(name, few) for name, _, few in none_right(run) if few.any()]
    x = np.arange(len(parts))
    for shift, name, style in ((0, LINEAR, "o"), (0.2, "greedy", ".")):
        found = [one for _, few in parts if (one := run.among(few, name))]
        _errors(axes, x + shift, found, fmt=style, label=name)
    labels = [f"{name.replace(' ', chr(10))}\n({few.sum()})" for name, few in parts]
    axes.set_xticks(x, labels, fontsize=8)
    axes.set(title=f"none of {K} candidates right (puzzles)", ylabel="accuracy", ylim=(-0.02, 1))
    axes.legend(fontsize=8)


def _by_pool(axes: Any, runs: Runs) -> None:
    run = runs[POOLS.name]
    shares = (0.0, 0.25, 0.5, 1.0)
    for pool in POOL_NAMES:
        names = [mixed(pool, one) if one else LINEAR for one in shares]
        _errors(axes, shares, [run.accuracy(one) for one in names], fmt="-o", label=pool)
    own = [run.accuracy(f"selfref linear@{k}") for k in (4, 3, 2)]
    _errors(axes, shares[:3], own, fmt="k:", label="own ones alone")
    axes.set(title=f"{LINEAR}", xlabel="share that others replace", ylabel="accuracy")
    axes.legend(fontsize=8)
