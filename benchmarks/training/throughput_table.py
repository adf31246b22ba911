"""The table of `benchmarks.training.throughput`."""

from __future__ import annotations

from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.peers.training_job import TrainingResult

OURS = "ours"
_CHECKPOINTING = "checkpointing"


def show(console: Console, run: dict[str, Any]) -> None:
    """Print every way of training, and ours against the best of theirs."""
    rounds = {
        name: [TrainingResult(**one) for one in results] for name, results in run["results"].items()
    }
    work = run["work"]
    title = (
        f"training {work['shape']} in fp32, {work['steps']} steps of {work['batch']} rows, "
        f"{work['tokens'] / work['rows']:.0f} tokens in the mean ({work['shortest']} to "
        f"{work['longest']}), {work['targets'] / work['tokens']:.0%} of them learnt"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("trainer", no_wrap=True)
    for column in ("tokens/s", "lowest", "highest", "loss, first step", "last", "× ours"):
        table.add_column(column, justify="right")
    for name, results in rounds.items():
        rates = [one.tokens_per_second for one in results]
        table.add_row(
            name,
            *(f"{rate:,.0f}" for rate in (median(rates), min(rates), max(rates))),
            *(f"{results[0].losses[at]:.4f}" for at in (0, -1)),
            f"{ratio(results, rounds[OURS]):.2f}",
        )
    console.print(table)
    for again in (False, True):
        console.print(_verdict(rounds, again))
    for name, reason in run["skipped"].items():
        console.print(f"{name}: {reason}")
    facts = {**run["machine"], **_facts(rounds)}
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()))


def ratio(results: list[TrainingResult], others: list[TrainingResult]) -> float:
    """How much faster: the median over the rounds, because the machine's speed varies."""
    pairs = zip(results, others, strict=True)
    return median(one.tokens_per_second / other.tokens_per_second for one, other in pairs)


def _verdict(rounds: dict[str, list[TrainingResult]], checkpointing: bool) -> str:
    """Ours against theirs, the best of each: both with checkpointing, or both without."""
    same = {name: one for name, one in rounds.items() if (_CHECKPOINTING in name) == checkpointing}
    with_it = "with" if checkpointing else "without"
    best = [
        max(names, key=lambda name: median(one.tokens_per_second for one in same[name]))
        for names in (
            [name for name in same if name.startswith(OURS)],
            [name for name in same if not name.startswith(OURS)],
        )
        if names
    ]
    if len(best) < 2:
        return f"{with_it} checkpointing: TRL gave no figures"
    ours, theirs = best
    times = ratio(same[ours], same[theirs])
    return f"{with_it} checkpointing: {ours} is {times:.2f} times as fast as {theirs}"


def _facts(rounds: dict[str, list[TrainingResult]]) -> dict[str, str]:
    return {name: value for results in rounds.values() for name, value in results[0].facts.items()}
