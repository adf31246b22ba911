"""selfRef@k of nano in 8 bits, puzzle by puzzle beside fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.methods import selfref
from benchmarks.analysis.intervals import Floats, Interval, Resampling
from benchmarks.nano.promises import MAX_TOKENS, TEST_SEED, K
from benchmarks.quantization.variants import Variant
from benchmarks.tasks.puzzles import puzzle_problems
from benchmarks.tasks.task import BenchmarkProblem
from gsr_engine import Engine, EngineConfig
from gsr_engine.evaluation.evaluator import Evaluator
from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.execution.loading import load_parts
from gsr_engine.params import LAYOUTS


@dataclass(frozen=True, slots=True)
class Score:
    """A share of right answers, and its difference to fp32's over the same puzzles.

    Draws have the same random numbers, so the difference is paired.
    """

    share: Interval
    change: Interval


def measure_refinement(
    model: Path, puzzles: int, variants: Sequence[Variant]
) -> dict[str, dict[str, Score]]:
    """pass@1, maj@4 and selfRef@4 of fp32 and of each variant, by name."""
    problems = puzzle_problems("test", TEST_SEED, puzzles)
    exact = _solve(model, problems, None)
    found = {"fp32": exact} | {one.name: _solve(model, problems, one) for one in variants}
    resampling = Resampling([problem.id for problem in problems])
    return {
        name: {
            method: Score(resampling.mean(hits), resampling.mean(hits - exact[method]))
            for method, hits in methods.items()
        }
        for name, methods in found.items()
    }


def _solve(
    model: Path, problems: Sequence[BenchmarkProblem], variant: Variant | None
) -> dict[str, Floats]:
    decoder, tokenizer, gsr = load_parts(model, EngineConfig(dtype="float32", quantization="none"))
    decoder = decoder if variant is None else variant.of(decoder)
    config = AccuracyConfig(seed=TEST_SEED, max_tokens=MAX_TOKENS)
    hits: dict[str, Floats] = {}
    # No prefix cache: no layout reads what the other computed.
    with Engine(decoder, tokenizer, gsr, EngineConfig(prefix_cache=False)) as engine:
        evaluator = Evaluator(engine, problems, ExactGrader())
        for layout in LAYOUTS:
            refined = evaluator.refine(config.refine_params(selfref(layout, K), TEST_SEED)).refined
            # Both layouts draw the same candidates.
            hits |= {
                "pass@1": _hits([one.num_correct / K for one in refined]),
                f"maj@{K}": _hits([one.majority_correct for one in refined]),
            }
            hits[f"selfRef@{K} {layout}"] = _hits([one.correct for one in refined])
    return hits


def _hits(values: Sequence[float]) -> Floats:
    return np.array(values, dtype=np.float64)
