"""An accuracy run: draws, refines, grades, and keeps every problem's result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from rich.console import Console

from benchmarks.accuracy.problems import BenchmarkProblem
from benchmarks.accuracy.results import ProblemResult, Refinement, Solution
from gsr_engine import Engine, InvalidRequest, SamplingParams, SelfRefineParams
from gsr_engine.environment import describe_machine
from gsr_engine.evaluation.evaluator import Attempt, Evaluator, Refined
from gsr_engine.evaluation.grader import ExactGrader, Grader
from gsr_engine.params import LAYOUTS, Layout

TEMPERATURE = 1.0
"""Of the candidates."""
COST_PROBLEMS = 256
"""Problems of the end-to-end cost run."""


def at_least_one(field: str, value: int | None) -> None:
    """Check a number that may be left out.

    Raises:
        InvalidRequest: it is below 1.
    """
    if value is not None and value < 1:
        raise InvalidRequest(field, f"must be at least 1, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyConfig:
    """Settings of a run.

    Attributes:
        k: Candidate counts, comma separated; the largest is drawn.
        layouts: Comma separated. Default: what the model claims.
        max_tokens: Per candidate and refinement. Default: what the engine allows.
        seed: Of puzzles and streams.

    Raises:
        InvalidRequest: a setting is out of range.
    """

    k: str = "1,2,4,8"
    layouts: str | None = None
    max_tokens: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if not all(part.isdigit() and int(part) for part in self.k.split(",")):
            raise InvalidRequest("k", f"must be candidate counts, comma separated, got {self.k!r}")
        for layout in self.chosen_layouts(LAYOUTS):
            SelfRefineParams(layout=layout)

    @property
    def ks(self) -> tuple[int, ...]:
        """The candidate counts, ascending."""
        return tuple(sorted({int(part) for part in self.k.split(",")}))

    @property
    def headline(self) -> int:
        """The k of the cost run, of T=1 refinement and of the table's main row."""
        return 4 if 4 in self.ks else self.ks[-1]

    def chosen_layouts(self, claimed: tuple[Layout, ...]) -> tuple[Layout, ...]:
        """The layouts to measure of a model that claims some."""
        if self.layouts is None:
            return claimed
        return cast("tuple[Layout, ...]", tuple(self.layouts.split(",")))


class AccuracyRun:
    """Runs every method over the same problems and candidates."""

    def __init__(
        self,
        engine: Engine,
        problems: Sequence[BenchmarkProblem],
        grader: Grader,
        config: AccuracyConfig,
    ) -> None:
        self._engine = engine
        self._problems = problems
        self._config = config
        self._evaluator = Evaluator(engine, problems, grader)
        self._console = Console(stderr=True)

    def run(self) -> tuple[dict[str, Any], list[ProblemResult]]:
        """The run's facts and one result per problem."""
        config, start = self._config, time.perf_counter()
        layouts = config.chosen_layouts(self._engine.gsr.layouts)
        drawn = self._draw(TEMPERATURE, max(config.ks))
        samples = [
            ProblemResult(p.id, p.text, p.gold, p.size, [_solution(one) for one in attempts])
            for p, attempts in zip(self._problems, drawn, strict=True)
        ]
        for sample, (attempt,) in zip(samples, self._draw(0.0, 1), strict=True):
            sample.greedy = _solution(attempt)
        token_ids = [[one.completion.token_ids for one in attempts] for attempts in drawn]
        for layout in layouts:
            for k in config.ks:
                given = [ids[:k] for ids in token_ids]
                self.refine(samples, f"{layout}@{k}", layout, given)
            given = [ids[: config.headline] for ids in token_ids]
            self.refine(samples, f"{layout}@{config.headline} T=1", layout, given, temperature=1.0)
        facts = {
            "config": {
                "ks": list(config.ks),
                "layouts": list(layouts),
                "headline": config.headline,
                "temperature": TEMPERATURE,
                "seed": config.seed,
            },
            "machine": describe_machine(),
            "cost": {layout: self._cost(layout) for layout in layouts},
        }
        facts["seconds"] = time.perf_counter() - start
        return facts, samples

    def _draw(self, temperature: float, n: int) -> list[list[Attempt]]:
        """Direct solutions of every problem."""
        config = self._config
        self._say(f"{n} direct solutions each at T={temperature:g}")
        return self._evaluator.draw(
            SamplingParams(
                n=n, temperature=temperature, max_tokens=config.max_tokens, seed=config.seed
            )
        )

    def refine(
        self,
        samples: Sequence[ProblemResult],
        method: str,
        layout: Layout,
        candidates: Sequence[Sequence[list[int]]],
        temperature: float = 0.0,
    ) -> None:
        """Refine given candidates of every problem; the answers go into the samples."""
        self._say(f"selfRef {method}")
        run = self._evaluator.refine(self._params(layout, temperature), candidates)
        for sample, refined in zip(samples, run.refined, strict=True):
            sample.refinements[method] = _refinement(refined)

    def _params(self, layout: Layout, temperature: float) -> SelfRefineParams:
        config = self._config
        return SelfRefineParams(
            k=config.headline,
            layout=layout,
            candidate=SamplingParams(temperature=TEMPERATURE, max_tokens=config.max_tokens),
            refine=SamplingParams(temperature=temperature, max_tokens=config.max_tokens),
            seed=config.seed,
        )

    def _cost(self, layout: Layout) -> dict[str, Any]:
        """selfRef@headline end to end, candidates generated: tokens and seconds by phase."""
        problems = self._problems[:COST_PROBLEMS]
        self._say(f"cost of {layout} over {len(problems)} problems")
        # These grades are not used, so the cheap grader is enough.
        evaluator = Evaluator(self._engine, problems, ExactGrader())
        run = evaluator.refine(self._params(layout, 0.0))
        return {
            "problems": len(problems),
            "seconds": run.seconds,
            "generated_tokens": run.usage.completion_tokens,
            "phases": run.usage.as_dict(),
        }

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{text}[/]")


def _solution(attempt: Attempt) -> Solution:
    completion = attempt.completion
    return Solution(
        text=completion.text,
        answer=attempt.answer,
        correct=attempt.correct,
        tokens=len(completion.token_ids),
        logprob=completion.logprob,
        finish_reason=completion.finish_reason,
    )


def _refinement(refined: Refined) -> Refinement:
    result, drawn = refined.result, refined.result.refinement
    return Refinement(
        text=result.text,
        answer=result.answer,
        correct=refined.correct,
        tokens=len(drawn.token_ids) if drawn else 0,
        logprob=drawn.logprob if drawn else 0.0,
        finish_reason=drawn.finish_reason if drawn else "error",
        used=result.used,
    )
