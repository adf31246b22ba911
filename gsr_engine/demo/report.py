"""The demo's figures: selfRef@k over many puzzles, judged against their exact solutions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gsr_engine.demo.puzzles import Puzzle
from gsr_engine.engine import Engine
from gsr_engine.outputs import RefineResult
from gsr_engine.params import Layout, SelfRefineParams
from gsr_engine.text.answers import majority, same_answer

NANO = Path(__file__).parent / "nano"
"""The checkpoint in the box."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One puzzle's result: which candidates are right, and the majority's and refiner's answers."""

    puzzle: Puzzle
    result: RefineResult
    correct: list[bool]
    majority_answer: str | None

    @property
    def majority_correct(self) -> bool:
        """Whether the most frequent answer is the right one."""
        return same_answer(self.majority_answer, self.puzzle.answer)

    @property
    def refined_correct(self) -> bool:
        """Whether the refined answer is the right one."""
        return same_answer(self.result.answer, self.puzzle.answer)


@dataclass(frozen=True, slots=True)
class LayoutReport:
    """All puzzles in one layout, and what it cost."""

    judged: list[Judged]
    seconds: float
    phases: dict[str, dict[str, float]]
    completion_tokens: int

    def mean(self, of: Callable[[Judged], bool]) -> float:
        """Share of the puzzles for which something holds."""
        return sum(map(of, self.judged)) / len(self.judged)

    def by_num_correct(self) -> dict[int, tuple[int, float]]:
        """Number of right candidates to (puzzles, accuracy of the refined answer)."""
        groups: dict[int, list[bool]] = {}
        for one in self.judged:
            groups.setdefault(sum(one.correct), []).append(one.refined_correct)
        return {n: (len(hits), sum(hits) / len(hits)) for n, hits in sorted(groups.items())}


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The demo's table, by layout."""

    k: int
    layouts: dict[Layout, LayoutReport] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The documented JSON of `gsr demo --json`."""
        first = next(iter(self.layouts.values()))
        return {
            "puzzles": len(first.judged),
            "k": self.k,
            "pass@1": sum(sum(one.correct) for one in first.judged) / (self.k * len(first.judged)),
            f"maj@{self.k}": first.mean(lambda one: one.majority_correct),
            f"pass@{self.k}": first.mean(lambda one: any(one.correct)),
            f"selfRef@{self.k}": {
                layout: report.mean(lambda one: one.refined_correct)
                for layout, report in self.layouts.items()
            },
            "by_num_correct": {
                layout: {
                    str(n): {"puzzles": count, "accuracy": accuracy}
                    for n, (count, accuracy) in report.by_num_correct().items()
                }
                for layout, report in self.layouts.items()
            },
            "phases": {layout: report.phases for layout, report in self.layouts.items()},
            "seconds": {layout: report.seconds for layout, report in self.layouts.items()},
            "tokens_per_second": {
                layout: report.completion_tokens / report.seconds
                for layout, report in self.layouts.items()
            },
        }


def judge(puzzle: Puzzle, result: RefineResult, engine: Engine) -> Judged:
    """Compare a result with the puzzle's exact solution."""
    answers = [engine.find_answer(candidate) for candidate in result.candidates]
    winner = majority(answers)
    return Judged(
        puzzle=puzzle,
        result=result,
        correct=[same_answer(answer, puzzle.answer) for answer in answers],
        majority_answer=None if winner is None else answers[winner],
    )


def run_layout(
    engine: Engine,
    puzzles: Sequence[Puzzle],
    params: SelfRefineParams,
    on_finished: Callable[[int], None],
) -> LayoutReport:
    """Refine every puzzle; `on_finished` hears how many puzzles each step finished."""
    before, start = engine.stats(), time.perf_counter()
    requests = [
        engine.new_self_refine(puzzle.problem, params, index=i) for i, puzzle in enumerate(puzzles)
    ]
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        on_finished(len(engine.step()))
    seconds, after = time.perf_counter() - start, engine.stats()
    return LayoutReport(
        judged=[
            judge(puzzle, request.result, engine)
            for puzzle, request in zip(puzzles, requests, strict=True)
            if request.result is not None
        ],
        seconds=seconds,
        phases={
            name: {
                key: value - before["phases"].get(name, {}).get(key, 0) for key, value in p.items()
            }
            for name, p in after["phases"].items()
        },
        completion_tokens=after["completion_tokens"] - before["completion_tokens"],
    )
