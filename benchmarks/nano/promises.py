"""What nano promises on held-out puzzles, and whether it keeps its promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.accuracy import scores
from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.results import ProblemResult
from benchmarks.accuracy.run import measure
from benchmarks.accuracy.scores import Interval, bootstrap
from benchmarks.accuracy.table import method_scores
from benchmarks.tasks.puzzles import puzzle_problems
from gsr_engine import Engine
from gsr_engine.checkpoint.digest import tokenizer_digest, weights_digest
from gsr_engine.demo.puzzles import PuzzleStream
from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.params import LAYOUTS

K = 4
MAX_TOKENS = 200
"""More than twice the longest solution."""
TEST_SEED = 90211
"""Seed of the held-out puzzles; they were used neither for training nor for any choice."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One thing that must hold, the measured interval, and whether it holds."""

    text: str
    interval: Interval
    kept: bool


def check_promises(run: dict[str, Any], samples: Sequence[ProblemResult]) -> list[Promise]:
    """Every promise, from the samples alone."""
    table = method_scores(run, samples)
    share = bootstrap(table["pass@1"])
    promises = [Promise("pass@1 between 0.4 and 0.7", share, 0.4 <= share.mean <= 0.7)]
    right = scores.num_correct(samples, K)
    for layout in ("linear", "branched"):
        ours = f"selfRef {layout}@{K}"
        others = ["pass@1", "greedy", f"maj@{K}", f"best-of-{K} (logprob)", f"pass@{K} (oracle)"]
        for other in (*others, f"selfRef {layout}@1"):
            difference = bootstrap(table[ours] - table[other])
            promises.append(Promise(f"{ours} above {other}", difference, difference.low > 0))
        repaired = bootstrap(table[ours][right == 0])
        promises.append(
            Promise(f"{ours} repairs half of the all-wrong sets", repaired, repaired.mean >= 0.5)
        )
    lead = bootstrap(table[f"selfRef linear@{K}"] - table[f"selfRef branched@{K}"])
    promises.append(Promise("branched at most 1.5 points behind linear", lead, lead.high <= 0.015))
    return promises


def show_promises(console: Console, promises: Sequence[Promise]) -> None:
    """The table of promises."""
    table = Table(title="promises", title_justify="left")
    table.add_column("")
    table.add_column("promise")
    table.add_column("measured [95 %]", justify="right")
    for promise in promises:
        mark = "[green]kept[/]" if promise.kept else "[bold red]missed[/]"
        one = promise.interval
        table.add_row(mark, promise.text, f"{one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}]")
    console.print(table)


def evaluate(
    model: Path,
    count: int,
    out: Path,
    stream: PuzzleStream = "test",
    k: str = f"1,2,{K},8",
) -> tuple[dict[str, Any], list[ProblemResult]]:
    """Run every method over the held-out puzzles; the samples file is written to `out`."""
    problems = puzzle_problems(stream, TEST_SEED, count)
    # Forced, because an ablation that was trained on direct rows alone claims no layout.
    config = AccuracyConfig(
        k=k, layouts=",".join(LAYOUTS), force_layout=True, seed=TEST_SEED, max_tokens=MAX_TOKENS
    )
    about = {
        "model": str(model),
        "weights": weights_digest(model),
        "tokenizer": tokenizer_digest(model),
        "data": f"{stream} stream of puzzles, seed {TEST_SEED}",
    }
    # No prefix cache: each layout pays for its own prompts.
    with Engine.from_pretrained(model, dtype="float32", prefix_cache=False) as engine:
        return measure(engine, problems, ExactGrader(), config, out / "samples.jsonl", about)
