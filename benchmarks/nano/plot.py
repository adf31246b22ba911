"""The picture of nano's report: accuracy over k, and by number of right candidates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt  # after the backend is chosen

from benchmarks.accuracy import scores
from benchmarks.accuracy.results import ProblemResult
from benchmarks.accuracy.scores import Hits, bootstrap

mpl.use("Agg")


def plot_report(run: dict[str, Any], samples: Sequence[ProblemResult], path: Path) -> None:
    """Two panels into one PNG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _over_k(left, run, samples)
    _by_right_candidates(right, run, samples)
    figure.suptitle(f"nano, {len(samples)} held-out puzzles (bars: 95 % bootstrap)")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _over_k(axes: Any, run: dict[str, Any], samples: Sequence[ProblemResult]) -> None:
    ks = run["settings"]["k"]
    curves = {
        f"selfRef {layout}": [scores.refined(samples, f"{layout}@{k}") for k in ks]
        for layout in run["settings"]["layouts"]
    }
    curves["pass@k (oracle)"] = [scores.oracle(samples, k) for k in ks]
    curves["best-of-k"] = [scores.best_of(samples, k) for k in ks]
    curves["maj@k"] = [scores.majority_at(samples, k) for k in ks]
    for name, hits in curves.items():
        refined = name.startswith("selfRef")
        _line(axes, ks, hits, name, "-o" if refined else "--.")
    axes.axhline(scores.greedy(samples).mean(), color="grey", lw=0.8, ls=":", label="greedy")
    axes.set(xscale="log", xticks=ks, xticklabels=ks, xlabel="k candidates", ylabel="accuracy")
    axes.minorticks_off()
    axes.legend(fontsize=8)


def _line(axes: Any, ks: Sequence[int], hits: Sequence[Hits], name: str, style: str) -> None:
    intervals = [bootstrap(one, resamples=2000) for one in hits]
    means = np.array([i.mean for i in intervals])
    below = means - [i.low for i in intervals]
    above = [i.high for i in intervals] - means
    axes.errorbar(ks, means, yerr=[below, above], fmt=style, capsize=2, label=name, lw=1.2)


def _by_right_candidates(axes: Any, run: dict[str, Any], samples: Sequence[ProblemResult]) -> None:
    k = run["settings"]["headline"]
    right = scores.num_correct(samples, k)
    methods = {f"maj@{k}": scores.majority_at(samples, k)}
    for layout in run["settings"]["layouts"]:
        methods[f"selfRef {layout}@{k}"] = scores.refined(samples, f"{layout}@{k}")
    width = 0.8 / len(methods)
    for index, (name, hits) in enumerate(methods.items()):
        bars = [hits[right == n].mean() if (right == n).any() else 0.0 for n in range(k + 1)]
        axes.bar(np.arange(k + 1) + index * width, bars, width, label=name)
    counts = [int((right == n).sum()) for n in range(k + 1)]
    axes.set(
        xticks=np.arange(k + 1) + width,
        xticklabels=[f"{n}\n({count})" for n, count in enumerate(counts)],
        xlabel=f"right candidates of {k} (puzzles)",
        ylabel="accuracy",
    )
    axes.legend(fontsize=8, loc="lower right")
