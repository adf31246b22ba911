"""The tables of an accuracy run, from its samples file alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy import scores, spent
from benchmarks.accuracy.results import ProblemResult
from benchmarks.accuracy.scores import Hits, bootstrap
from benchmarks.accuracy.spent import Spent


def method_scores(run: dict[str, Any], samples: Sequence[ProblemResult]) -> dict[str, Hits]:
    """Hits of every method at every k, in the order of the table; pass@1 over the headline k."""
    k = run["settings"]["headline"]
    table = {"pass@1": scores.pass_at_1(samples, k), "greedy": scores.greedy(samples)}
    for n in _selections(run):
        table[f"maj@{n}"] = scores.majority_at(samples, n)
        table[f"best-of-{n} (logprob)"] = scores.best_of(samples, n)
        table[f"pass@{n} (oracle)"] = scores.oracle(samples, n)
    for method in samples[0].refinements:
        table[f"selfRef {method}"] = scores.refined(samples, method)
    return table


def method_spent(run: dict[str, Any], samples: Sequence[ProblemResult]) -> dict[str, Spent]:
    """Shares of cut and unanswered and tokens of the same methods, by the same names."""
    k = run["settings"]["headline"]
    table = {"pass@1": spent.of_candidates(samples, k), "greedy": spent.of_greedy(samples)}
    for n in _selections(run):
        table[f"maj@{n}"] = table[f"pass@{n} (oracle)"] = spent.of_selection(samples, n)
        table[f"best-of-{n} (logprob)"] = spent.of_best(samples, n)
    for method in samples[0].refinements:
        _, _, read = method.removesuffix(" T=1").partition("@")
        table[f"selfRef {method}"] = spent.of_refinement(samples, method, int(read))
    return table


def _selections(run: dict[str, Any]) -> list[int]:
    return sorted({run["settings"]["headline"], *run["settings"]["k"]} - {1})


def show_table(console: Console, run: dict[str, Any], samples: Sequence[ProblemResult]) -> None:
    """Accuracy with intervals, tokens, paired differences, strata, sizes, cost of the engine."""
    table = method_scores(run, samples)
    _show_accuracy(console, run, table, method_spent(run, samples), len(samples))
    _show_differences(console, run, table)
    _show_strata(console, run, samples)
    if any(sample.size for sample in samples):
        _show_sizes(console, run, samples, table)
    _show_cost(console, run)


def _layout_rows(run: dict[str, Any]) -> list[str]:
    k = run["settings"]["headline"]
    return [f"selfRef {layout}@{k}" for layout in run["settings"]["layouts"]]


def _show_accuracy(
    console: Console,
    run: dict[str, Any],
    table: dict[str, Hits],
    spent_of: dict[str, Spent],
    count: int,
) -> None:
    settings = run["settings"]
    out = Table(title=f"{settings['model']}: {count} problems", title_justify="left")
    out.add_column("method")
    for column in ("accuracy [95 %]", "cut", "no answer", "tokens"):
        out.add_column(column, justify="right")
    for name, hits in table.items():
        interval, spent_by = bootstrap(hits), spent_of[name]
        out.add_row(
            name,
            f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]",
            f"{spent_by.cut:.1%}",
            f"{spent_by.unanswered:.1%}",
            f"{spent_by.tokens:,.0f}",
        )
    console.print(out)
    console.print(
        f"candidates at T={settings['temperature']:g}; greedy and selfRef at T=0 unless named\n"
        f"cut at {settings['max_tokens']:,} tokens: of the solutions that the answer is read from\n"
        "tokens: generated per problem, candidates included"
    )
    for problem, reason in run["left_out"]:
        console.print(f"left out: problem {problem}: {reason}", markup=False, highlight=False)


def _show_differences(console: Console, run: dict[str, Any], table: dict[str, Hits]) -> None:
    layouts = _layout_rows(run)
    out = Table(title="differences [95 %, paired]", title_justify="left")
    out.add_column("method")
    for layout in layouts:
        out.add_column(f"{layout} minus it", justify="right")
    for name, hits in table.items():
        out.add_row(
            name,
            *("" if name == one else _signed(bootstrap(table[one] - hits)) for one in layouts),
        )
    console.print(out)


def _signed(interval: scores.Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _show_strata(console: Console, run: dict[str, Any], samples: Sequence[ProblemResult]) -> None:
    k = run["settings"]["headline"]
    right = scores.num_correct(samples, k)
    out = Table(title=f"by number of right candidates of {k}", title_justify="left")
    out.add_column("method")
    for n in range(k + 1):
        out.add_column(f"Nc={n} ({int((right == n).sum())})", justify="right")
    rows = {f"maj@{k}": scores.majority_at(samples, k)}
    rows |= {
        f"selfRef {layout}@{k}": scores.refined(samples, f"{layout}@{k}")
        for layout in run["settings"]["layouts"]
    }
    for name, hits in rows.items():
        cells = [hits[right == n] for n in range(k + 1)]
        out.add_row(name, *(f"{cell.mean():.3f}" if len(cell) else "–" for cell in cells))
    console.print(out)
    majority = rows.pop(f"maj@{k}")
    for name, hits in rows.items():
        gained, lost = ((hits > majority).sum(), (hits < majority).sum())
        gap = f"{hits.mean() / majority.mean() - 1:+.3f}" if majority.any() else "–"
        console.print(
            f"{name}: majority wrong → refined right {gained}, right → wrong {lost}; "
            f"refinement gap {gap}"
        )


def _show_sizes(
    console: Console, run: dict[str, Any], samples: Sequence[ProblemResult], table: dict[str, Hits]
) -> None:
    k = run["settings"]["headline"]
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
    out = Table(title=f"cost of selfRef@{run['settings']['headline']}", title_justify="left")
    for column in ("layout", "phase", "tokens computed", "tokens reused", "seconds"):
        out.add_column(column, justify="left" if column in ("layout", "phase") else "right")
    for layout, cost in run["measured"]["cost"].items():
        for name, phase in cost["phases"].items():
            out.add_row(
                layout,
                name,
                f"{phase['tokens_computed']:,}",
                f"{phase['tokens_reused']:,}",
                f"{phase['seconds']:.2f}",
            )
        seconds = max(cost["seconds"], 1e-9)
        rate, answers = cost["generated_tokens"] / seconds, cost["problems"] / seconds
        text = f"{rate:,.0f} generated tokens/s, {answers:.1f} answers/s"
        out.add_row(layout, text, "", "", f"{cost['seconds']:.2f}", end_section=True)
    console.print(out)
