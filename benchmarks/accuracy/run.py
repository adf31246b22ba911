"""An accuracy run: draws, refines, grades, and keeps every problem's result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from benchmarks.accuracy.results import ProblemResult, Refinement, Solution
from gsr_engine import (
    Completion,
    Engine,
    RefineResult,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.environment import describe_machine
from train.grading import Grader
from train.problems import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyConfig:
    """Settings of a run.

    Attributes:
        ks: candidate counts to report; the largest is drawn.
        layouts: refinement layouts.
        headline: the k of the cost run, of T=1 refinement and of the table's main row.
        max_tokens: of a candidate and of a refinement; None leaves it to the engine.
        cost_problems: problems of the end-to-end cost run.
    """

    ks: tuple[int, ...] = (1, 2, 4, 8)
    layouts: tuple[str, ...] = ("linear", "branched")
    headline: int = 4
    temperature: float = 1.0
    max_tokens: int | None = None
    seed: int = 0
    cost_problems: int = 256


class AccuracyRun:
    """Runs every method over the same problems and candidates."""

    def __init__(
        self, engine: Engine, problems: Sequence[Problem], grader: Grader, config: AccuracyConfig
    ) -> None:
        self._engine = engine
        self._problems = problems
        self._grader = grader
        self._config = config
        self._console = Console(stderr=True)

    def run(self) -> tuple[dict[str, Any], list[ProblemResult]]:
        """The run's facts and one sample per problem."""
        config, start = self._config, time.perf_counter()
        drawn = self._draw(config.temperature, max(config.ks), config.seed)
        samples = [
            ProblemResult(p.id, p.text, p.answer, p.size, [self._stream(c, p) for c in completions])
            for p, completions in zip(self._problems, drawn, strict=True)
        ]
        for sample, problem, (completion,) in zip(
            samples, self._problems, self._draw(0.0, 1, config.seed), strict=True
        ):
            sample.greedy = self._stream(completion, problem)
        token_ids = [[c.token_ids for c in completions] for completions in drawn]
        for layout in config.layouts:
            for k in config.ks:
                given = [ids[:k] for ids in token_ids]
                self.refine(samples, f"{layout}@{k}", layout, given)
            given = [ids[: config.headline] for ids in token_ids]
            self.refine(samples, f"{layout}@{config.headline} T=1", layout, given, temperature=1.0)
        facts = {
            "config": {
                "ks": list(config.ks),
                "layouts": list(config.layouts),
                "headline": config.headline,
                "temperature": config.temperature,
                "seed": config.seed,
            },
            "machine": describe_machine(),
            "cost": {layout: self._cost(layout) for layout in config.layouts},
        }
        facts["seconds"] = time.perf_counter() - start
        return facts, samples

    def _draw(self, temperature: float, n: int, seed: int) -> list[list[Completion]]:
        """Direct solutions of every problem."""
        params = SamplingParams(
            n=n, temperature=temperature, max_tokens=self._config.max_tokens, seed=seed
        )
        self._say(f"{n} direct solutions each at T={temperature:g}")
        prompts = [self._engine.direct_prompt(problem.text) for problem in self._problems]
        return [result.completions for result in self._engine.generate(prompts, params)]

    def refine(
        self,
        samples: Sequence[ProblemResult],
        method: str,
        layout: str,
        candidates: Sequence[Sequence[list[int]]],
        temperature: float = 0.0,
    ) -> None:
        """Refine given candidates of every problem; the answers go into the samples."""
        self._say(f"selfRef {method}")
        params = self._params(layout, temperature)
        results = self._engine.self_refine(
            [problem.text for problem in self._problems], params, candidates=candidates
        )
        for sample, problem, result in zip(samples, self._problems, results, strict=True):
            sample.refinements[method] = self._refinement(result, problem)

    def _params(self, layout: str, temperature: float) -> SelfRefineParams:
        config = self._config
        return SelfRefineParams(
            k=config.headline,
            layout=layout,  # type: ignore[arg-type]
            candidate=SamplingParams(temperature=config.temperature, max_tokens=config.max_tokens),
            refine=SamplingParams(temperature=temperature, max_tokens=config.max_tokens),
            seed=config.seed,
        )

    def _cost(self, layout: str) -> dict[str, Any]:
        """selfRef@headline end to end, candidates generated: tokens and seconds by phase."""
        problems = [problem.text for problem in self._problems[: self._config.cost_problems]]
        self._say(f"cost of {layout} over {len(problems)} problems")
        before = self._engine.stats()
        start = time.perf_counter()
        results = self._engine.self_refine(problems, self._params(layout, 0.0))
        seconds = time.perf_counter() - start
        phases: dict[str, dict[str, float]] = {}
        for result in results:
            for name, usage in result.usage.as_dict().items():
                total = phases.setdefault(name, dict.fromkeys(usage, 0))
                for key, value in usage.items():
                    total[key] += value
        tokens = self._engine.stats()["completion_tokens"] - before["completion_tokens"]
        return {
            "problems": len(problems),
            "seconds": seconds,
            "generated_tokens": tokens,
            "phases": phases,
        }

    def _stream(self, completion: Completion, problem: Problem) -> Solution:
        answer = self._engine.find_answer(completion)
        return Solution(
            text=completion.text,
            answer=answer,
            correct=self._grader.correct(answer, problem.answer),
            tokens=len(completion.token_ids),
            logprob=completion.logprob,
            finish_reason=completion.finish_reason,
        )

    def _refinement(self, result: RefineResult, problem: Problem) -> Refinement:
        drawn = result.refinement
        return Refinement(
            text=result.text,
            answer=result.answer,
            correct=self._grader.correct(result.answer, problem.answer),
            tokens=len(drawn.token_ids) if drawn else 0,
            logprob=drawn.logprob if drawn else 0.0,
            finish_reason=drawn.finish_reason if drawn else "error",
            used=result.used,
        )

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{text}[/]")
