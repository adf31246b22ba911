"""The picture of nano's report: accuracy over k, and by number of right candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt  # after the backend is chosen

from benchmarks.analysis.intervals import Floats, Interval, Resampling
from benchmarks.analysis.outcome import Outcome
from benchmarks.nano.outcomes import outcomes_of, right_of
from benchmarks.samples.folder import Run

mpl.use("Agg")


def plot_report(run: Run, path: Path) -> None:
    """Two panels into one PNG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    outcomes = outcomes_of(run, run.settings["k"])
    _over_k(left, run, outcomes)
    _by_right_candidates(right, run, outcomes)
    figure.suptitle(f"nano, {len(run.samples)} held-out puzzles (bars: 95 % bootstrap)")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _over_k(axes: Any, run: Run, outcomes: Mapping[str, Outcome]) -> None:
    ks = run.settings["k"]
    names = {f"selfRef {one}": f"selfref {one}@{{k}}" for one in run.settings["layouts"]}
    names |= {
        "pass@k (oracle)": "pass@{k} (oracle)",
        "best-of-k": "best-of-{k} (logprob)",
        "maj@k": "maj@{k}",
    }
    resampling = Resampling([sample.id for sample in run.samples], resamples=2000)
    for label, name in names.items():
        hits = [outcomes[name.format(k=k)].hits for k in ks]
        _line(axes, ks, resampling.means(hits), label, "-o" if "selfRef" in label else "--.")
    greedy = outcomes["greedy"].hits.mean()
    axes.axhline(greedy, color="grey", lw=0.8, ls=":", label="greedy")
    axes.set(xscale="log", xticks=ks, xticklabels=ks, xlabel="k candidates", ylabel="accuracy")
    axes.minorticks_off()
    axes.legend(fontsize=8)


def _line(axes: Any, ks: Sequence[int], of: Sequence[Interval], label: str, style: str) -> None:
    means = np.array([one.mean for one in of])
    below = means - [one.low for one in of]
    above = [one.high for one in of] - means
    axes.errorbar(ks, means, yerr=[below, above], fmt=style, capsize=2, label=label, lw=1.2)


def _by_right_candidates(axes: Any, run: Run, outcomes: Mapping[str, Outcome]) -> None:
    k = run.settings["headline"]
    names = [f"maj@{k}", *(f"selfref {layout}@{k}" for layout in run.settings["layouts"])]
    chosen = [right_of(run, k, count) for count in range(k + 1)]
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        bars = [_share(outcomes[name].hits[mine]) for mine in chosen]
        axes.bar(np.arange(k + 1) + index * width, bars, width, label=name)
    axes.set(
        xticks=np.arange(k + 1) + width,
        xticklabels=[f"{count}\n({mine.sum()})" for count, mine in enumerate(chosen)],
        xlabel=f"right candidates of {k} (puzzles)",
        ylabel="accuracy",
    )
    axes.legend(fontsize=8, loc="lower right")


def _share(hits: Floats) -> float:
    return float(hits.mean()) if len(hits) else 0.0
