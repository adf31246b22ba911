"""The tables of an accuracy run, from its samples file alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy import scores
from benchmarks.accuracy.results import ProblemResult
from benchmarks.accuracy.scores import Hits, bootstrap


def method_scores(run: dict[str, Any], samples: Sequence[ProblemResult]) -> dict[str, Hits]:
    """Hits of every method at every k, in the order of the table; pass@1 over the headline k."""
    k = run["config"]["headline"]
    table = {"pass@1": scores.pass_at_1(samples, k), "greedy": scores.greedy(samples)}
    for n in sorted({k, *run["config"]["ks"]} - {1}):
        table[f"maj@{n}"] = scores.majority_at(samples, n)
        table[f"best-of-{n} (logprob)"] = scores.best_of(samples, n)
        table[f"pass@{n} (oracle)"] = scores.oracle(samples, n)
    for method in samples[0].refinements:
        table[f"selfRef {method}"] = scores.refined(samples, method)
    return table


def show_table(console: Console, run: dict[str, Any], samples: Sequence[ProblemResult]) -> None:
    """Accuracy with intervals, paired differences, the k curve, strata, sizes, cost."""
    table = method_scores(run, samples)
    _show_accuracy(console, run, table, len(samples))
    _show_strata(console, run, samples)
    if any(sample.size for sample in samples):
        _show_sizes(console, run, samples, table)
    _show_cost(console, run)


def _layout_rows(run: dict[str, Any]) -> list[str]:
    k = run["config"]["headline"]
    return [f"selfRef {layout}@{k}" for layout in run["config"]["layouts"]]


def _show_accuracy(
    console: Console, run: dict[str, Any], table: dict[str, Hits], count: int
) -> None:
    layouts = _layout_rows(run)
    out = Table(title=f"{run.get('model', '')}: {count} problems", title_justify="left")
    out.add_column("method")
    out.add_column("accuracy [95 %]", justify="right")
    for layout in layouts:
        out.add_column(f"{layout} minus it [95 %, paired]", justify="right")
    for name, hits in table.items():
        interval = bootstrap(hits)
        cells = [f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"]
        for layout in layouts:
            same = name == layout
            cells.append("" if same else _signed(bootstrap(table[layout] - hits)))
        out.add_row(name, *cells)
    console.print(out)
    console.print(
        f"candidates at T={run['config']['temperature']:g}; greedy and selfRef at T=0 unless named"
    )


def _signed(interval: scores.Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _show_strata(console: Console, run: dict[str, Any], samples: Sequence[ProblemResult]) -> None:
    k = run["config"]["headline"]
    right = scores.num_correct(samples, k)
    out = Table(title=f"by number of right candidates of {k}", title_justify="left")
    out.add_column("method")
    for n in range(k + 1):
        out.add_column(f"Nc={n} ({int((right == n).sum())})", justify="right")
    rows = {f"maj@{k}": scores.majority_at(samples, k)}
    rows |= {
        f"selfRef {layout}@{k}": scores.refined(samples, f"{layout}@{k}")
        for layout in run["config"]["layouts"]
    }
    for name, hits in rows.items():
        cells = [hits[right == n] for n in range(k + 1)]
        out.add_row(name, *(f"{cell.mean():.3f}" if len(cell) else "–" for cell in cells))
    console.print(out)
    majority = rows.pop(f"maj@{k}")
    for name, hits in rows.items():
        gained, lost = ((hits > majority).sum(), (hits < majority).sum())
        gap = (hits.mean() - majority.mean()) / majority.mean() if majority.any() else float("nan")
        console.print(
            f"{name}: majority wrong → refined right {gained}, right → wrong {lost}; "
            f"refinement gap {gap:+.3f}"
        )


def _show_sizes(
    console: Console, run: dict[str, Any], samples: Sequence[ProblemResult], table: dict[str, Hits]
) -> None:
    k = run["config"]["headline"]
    names = ["pass@1", f"maj@{k}", f"pass@{k} (oracle)", *_layout_rows(run)]
    sizes = np.array([sample.size for sample in samples])
    out = Table(title="by size", title_justify="left")
    for column in ("size", "problems", *names):
        out.add_column(column, justify="right")
    for size in sorted(set(sizes.tolist())):
        mine = sizes == size
        cells = [f"{table[name][mine].mean():.3f}" for name in names]
        out.add_row(size, str(int(mine.sum())), *cells)
    console.print(out)


def _show_cost(console: Console, run: dict[str, Any]) -> None:
    out = Table(title=f"cost of selfRef@{run['config']['headline']}", title_justify="left")
    for column in ("layout", "phase", "tokens computed", "tokens reused", "seconds"):
        out.add_column(column, justify="left" if column in ("layout", "phase") else "right")
    for layout, cost in run["cost"].items():
        for name, phase in cost["phases"].items():
            out.add_row(
                layout,
                name,
                f"{phase['tokens_computed']:,}",
                f"{phase['tokens_reused']:,}",
                f"{phase['seconds']:.2f}",
            )
        rate = cost["generated_tokens"] / cost["seconds"]
        answers = cost["problems"] / cost["seconds"]
        text = f"{rate:,.0f} generated tokens/s, {answers:.1f} answers/s"
        out.add_row(layout, text, "", "", f"{cost['seconds']:.2f}", end_section=True)
    console.print(out)
