"""The demo's figures: selfRef@k over many puzzles, judged against their exact solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gsr_engine.demo.puzzles import Puzzle
from gsr_engine.engine import Engine
from gsr_engine.evaluation.evaluator import Evaluator, Exercise, Refined, RefinedSet
from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.params import Layout, SelfRefineParams

NANO = Path(__file__).parent / "nano"
"""The checkpoint in the box."""


@dataclass(frozen=True, slots=True)
class LayoutReport:
    """All puzzles in one layout: how each was solved, and what it cost."""

    puzzles: Sequence[Puzzle]
    run: RefinedSet

    def mean(self, of: Callable[[Refined], bool]) -> float:
        """Share of the puzzles for which something holds."""
        return sum(map(of, self.run.refined)) / len(self.puzzles)

    def by_num_correct(self) -> dict[int, tuple[int, float]]:
        """Number of right candidates to (puzzles, accuracy of the refined answer)."""
        groups: dict[int, list[bool]] = {}
        for one in self.run.refined:
            groups.setdefault(one.num_correct, []).append(one.correct)
        return {n: (len(hits), sum(hits) / len(hits)) for n, hits in sorted(groups.items())}


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The demo's table, by layout."""

    k: int
    layouts: dict[Layout, LayoutReport] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The documented JSON of `gsr demo --json`."""
        first = next(iter(self.layouts.values()))
        puzzles = len(first.puzzles)
        right = sum(one.num_correct for one in first.run.refined)
        return {
            "puzzles": puzzles,
            "k": self.k,
            "pass@1": right / (self.k * puzzles),
            f"maj@{self.k}": first.mean(lambda one: one.majority_correct),
            f"pass@{self.k}": first.mean(lambda one: one.num_correct > 0),
            f"selfRef@{self.k}": {
                layout: report.mean(lambda one: one.correct)
                for layout, report in self.layouts.items()
            },
            "by_num_correct": {
                layout: {
                    str(n): {"puzzles": count, "accuracy": accuracy}
                    for n, (count, accuracy) in report.by_num_correct().items()
                }
                for layout, report in self.layouts.items()
            },
            "phases": {
                layout: report.run.usage.as_dict() for layout, report in self.layouts.items()
            },
            "seconds": {layout: report.run.seconds for layout, report in self.layouts.items()},
            "tokens_per_second": {
                layout: report.run.usage.completion_tokens / report.run.seconds
                for layout, report in self.layouts.items()
            },
        }


def run_layout(
    engine: Engine,
    puzzles: Sequence[Puzzle],
    params: SelfRefineParams,
    on_finished: Callable[[int], object],
) -> LayoutReport:
    """Refine every puzzle; `on_finished` gets the number of puzzles that each step finished."""
    exercises = [Exercise(puzzle.problem, puzzle.answer) for puzzle in puzzles]
    evaluator = Evaluator(engine, exercises, ExactGrader())
    return LayoutReport(puzzles, evaluator.refine(params, on_finished=on_finished))
