"""What nano promises on held-out puzzles, and whether it keeps its promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.engine_generator import EngineGenerator
from benchmarks.accuracy.run import measure
from benchmarks.analysis.intervals import Interval, Resampling
from benchmarks.nano.outcomes import outcomes_of, right_of
from benchmarks.samples.folder import Run
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


def check_promises(run: Run) -> list[Promise]:
    """Every promise, from the samples alone."""
    hits = {name: one.hits for name, one in outcomes_of(run, [K]).items()}
    resampling = Resampling([sample.id for sample in run.samples])
    share = resampling.mean(hits["pass@1"])
    promises = [Promise("pass@1 between 0.4 and 0.7", share, 0.4 <= share.mean <= 0.7)]
    all_wrong = right_of(run, K, 0).astype(float)
    for layout in ("linear", "branched"):
        ours = f"selfref {layout}@{K}"
        others = ["pass@1", "greedy", f"maj@{K}", f"best-of-{K} (logprob)", f"pass@{K} (oracle)"]
        for other in (*others, f"selfref {layout}@1"):
            difference = resampling.mean(hits[ours] - hits[other])
            promises.append(Promise(f"{ours} above {other}", difference, difference.low > 0))
        (repaired,) = resampling.ratios([(hits[ours] * all_wrong, all_wrong)])
        if repaired is not None:
            text = f"{ours} repairs half of the all-wrong sets"
            promises.append(Promise(text, repaired, repaired.mean >= 0.5))
    lead = resampling.mean(hits[f"selfref linear@{K}"] - hits[f"selfref branched@{K}"])
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
        table.add_row(mark, promise.text, promise.interval.signed)
    console.print(table)


def evaluate(
    model: Path,
    count: int,
    out: Path,
    stream: PuzzleStream = "test",
    k: str = f"1,2,{K},8",
) -> Run:
    """Run every method over the held-out puzzles; the run is in the folder `out`."""
    problems = puzzle_problems(stream, TEST_SEED, count)
    # Forced, because an ablation that was trained on direct rows alone claims no layout.
    config = AccuracyConfig(
        k=k, layouts=",".join(LAYOUTS), force_layout=True, seed=TEST_SEED, max_tokens=MAX_TOKENS
    )
    about = {
        "task": "puzzles",
        "model": str(model),
        "weights": weights_digest(model),
        "tokenizer": tokenizer_digest(model),
        "data": f"{stream} stream of puzzles, seed {TEST_SEED}",
    }
    # No prefix cache: each layout pays for its own prompts.
    with Engine.from_pretrained(model, dtype="float32", prefix_cache=False) as engine:
        generator = EngineGenerator(engine, problems, config)
        return measure(generator, problems, ExactGrader(), config, out, about)
