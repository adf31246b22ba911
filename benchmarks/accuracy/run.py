"""An accuracy run: draws, refines, grades, and keeps every result as it comes."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.journal import FREE, Journal
from benchmarks.accuracy.problems import BenchmarkProblem
from benchmarks.accuracy.progress import AccuracyProgress
from benchmarks.accuracy.results import (
    ProblemResult,
    Refinement,
    Solution,
    read_results,
    write_results,
)
from gsr_engine import Engine, InvalidRequest
from gsr_engine.environment import describe_machine
from gsr_engine.evaluation.evaluator import Attempt, Evaluator, Refined
from gsr_engine.evaluation.grader import ExactGrader, Grader
from gsr_engine.params import Layout
from train.command import log
from train.files import differences

COST_PROBLEMS = 256
"""Problems of the end-to-end cost run."""


def measure(
    engine: Engine,
    problems: Sequence[BenchmarkProblem],
    grader: Grader,
    config: AccuracyConfig,
    out: Path,
    about: dict[str, str],
) -> tuple[dict[str, Any], list[ProblemResult]]:
    """The facts of a run and one result per problem, from the samples file `out` if it is there.

    An interrupted run goes on from the folder `<out>.journal`, to the same samples.

    Args:
        engine: measured; it must have no other work, and no prefix cache.
        problems: what is asked.
        grader: judges the answers.
        config: how the problems are asked.
        out: the samples file; it appears when it is whole.
        about: names and digests of model and data; `FREE` ones may differ from an earlier run's.

    Raises:
        InvalidRequest: not one problem can be asked, or `out` holds another run or something else.
        CheckpointError: the journal is of a run with other settings.
    """
    settings: dict[str, Any] = {
        **about,
        **config.settings(engine),
        "problems": _digest(problems),
        "grader": type(grader).__name__,
    }
    journal_folder = out.with_name(f"{out.name}.journal")
    if out.exists():
        run, samples = read_results(out, "out")
        if found := differences(settings, run["settings"], FREE):
            raise InvalidRequest(
                "out",
                f"{out} holds a run with another {', '.join(found)}; remove it or choose another",
            )
        shutil.rmtree(journal_folder, ignore_errors=True)
        log.info("%s is there already", out)
        return run, samples
    left_out = refused_problems(engine, problems, config)  # a refused run claims no folder
    with Journal(journal_folder, settings) as journal:
        if len(journal):
            log.info("going on with %s results of %s", f"{len(journal):,}", journal_folder)
        facts, samples = AccuracyRun(engine, problems, grader, config, journal, left_out).run()
    run = {"settings": settings, **facts}
    write_results(out, run, samples)
    shutil.rmtree(journal_folder)
    return run, samples


def refused_problems(
    engine: Engine, problems: Sequence[BenchmarkProblem], config: AccuracyConfig
) -> dict[int, str]:
    """Why problems cannot be asked, by index: what can be refused is, before the first token.

    The largest k and every layout are tried.

    Raises:
        InvalidRequest: not one problem can be asked; the first one's error says why.
    """
    k = max(config.ks)
    draw = config.draw_params(k, config.temperature)
    refine = [config.refine_params(one, k) for one in config.chosen_layouts(engine.gsr.layouts)]
    evaluator, refused = Evaluator(engine, problems, ExactGrader()), {}
    for index, problem in enumerate(problems):
        error = InvalidRequest("problem", problem.error) if problem.error else None
        error = error or evaluator.refusal(index, draw, *refine)
        if error is not None:
            refused[index] = error
    if len(refused) == len(problems):
        if refused[0].field not in ("problem", "prompt"):  # a setting, and not the problem
            raise refused[0]
        raise InvalidRequest("data", f"no problem can be asked; {problems[0].id}: {refused[0]}")
    return {index: str(error) for index, error in refused.items()}


class Method(NamedTuple):
    """A way to solve problems: directly (no layout), or by refining the first k candidates."""

    name: str
    layout: Layout | None
    k: int
    temperature: float


class AccuracyRun:
    """Runs every method over the same problems and candidates.

    Args:
        engine, problems, grader, config: as of `measure`.
        journal: has the results so far, and keeps each new one as it comes.
        left_out: problems that are not asked, by index, with the reasons.
    """

    def __init__(
        self,
        engine: Engine,
        problems: Sequence[BenchmarkProblem],
        grader: Grader,
        config: AccuracyConfig,
        journal: Journal,
        left_out: dict[int, str],
    ) -> None:
        self._problems = problems
        self._config = config
        self._journal = journal
        self._layouts = config.chosen_layouts(engine.gsr.layouts)
        self._methods = list(self._all_methods())
        self._left_out: dict[int, str] = {}
        for index, reason in left_out.items():
            self._leave_out(index, reason)
        total, done = self._count_streams()
        self._progress = AccuracyProgress(engine, config.max_tokens, total, done)
        self._evaluator = Evaluator(engine, problems, grader, self._progress.step)
        # The grades of the cost run are not used, so the cheap grader is enough.
        self._cost_evaluator = Evaluator(engine, problems, ExactGrader(), self._progress.step)

    def _all_methods(self) -> Iterator[Method]:
        config = self._config
        yield Method("candidates", None, max(config.ks), config.temperature)
        yield Method("greedy", None, 1, 0.0)
        for layout in self._layouts:
            for k in config.ks:
                yield Method(f"{layout}@{k}", layout, k, 0.0)
            yield Method(f"{layout}@{config.headline} T=1", layout, config.headline, 1.0)

    def _leave_out(self, index: int, reason: str) -> None:
        self._left_out[index] = reason
        log.info("problem %s is left out: %s", self._problems[index].id, reason)

    @property
    def _asked(self) -> list[int]:
        return [index for index in range(len(self._problems)) if index not in self._left_out]

    @property
    def _costed(self) -> list[int]:
        return self._asked[:COST_PROBLEMS]

    def _count_streams(self) -> tuple[int, int]:
        """Solutions of the whole run, and those that the journal has."""
        parts = [(one.name, 1 if one.layout else one.k, self._asked) for one in self._methods]
        parts += [(_cost(one), self._config.headline + 1, self._costed) for one in self._layouts]
        total = sum(each * len(asked) for _, each, asked in parts)
        missing = sum(each * len(self._journal.missing(name, asked)) for name, each, asked in parts)
        return total, total - missing

    def run(self) -> tuple[dict[str, Any], list[ProblemResult]]:
        """The run's facts and one result per problem that can be asked.

        Raises:
            InvalidRequest: the draw of every problem failed.
        """
        start = time.perf_counter()
        for method in self._methods:
            if method.layout is None:
                self._draw(method)
            else:
                self._refine(method, method.layout)
        for layout in self._layouts:
            self._measure_cost(layout)
        machine = describe_machine()
        facts = {
            "left_out": [[self._problems[i].id, why] for i, why in sorted(self._left_out.items())],
            "measured": {
                "date": machine.pop("date"),
                "seconds": time.perf_counter() - start,
                "cost": {layout: self._total_cost(layout) for layout in self._layouts},
            },
            "machine": machine,
        }
        return facts, [self._result(index) for index in self._asked]

    def _draw(self, method: Method) -> None:
        """Direct solutions of every problem."""
        params = self._config.draw_params(method.k, method.temperature)
        todo = self._journal.missing(method.name, self._asked)
        self._progress.begin(method.name, len(todo))
        with closing(self._evaluator.draw_each(params, todo)) as each:
            for index, drawn in each:
                solutions = [_solution(attempt) for attempt in drawn.attempts]
                value = {"error": drawn.error, "solutions": [asdict(one) for one in solutions]}
                self._journal.add(method.name, index, value)
                self._progress.count(solutions, method.k)
        for index in self._asked:
            if error := self._journal.get(method.name, index)["error"]:
                self._leave_out(index, error)
        if not self._asked:
            raise InvalidRequest("data", f"no problem is left: {self._left_out}")

    def _refine(self, method: Method, layout: Layout) -> None:
        """Refine the first k candidates of every problem."""
        params = self._config.refine_params(layout, method.k, method.temperature)
        todo = self._journal.missing(method.name, self._asked)
        self._progress.begin(f"selfRef {method.name}", len(todo))
        given: list[list[list[int]]] = [[] for _ in self._problems]
        for index in todo:
            drawn = self._journal.get("candidates", index)["solutions"][: method.k]
            given[index] = [one["token_ids"] for one in drawn]
        with closing(self._evaluator.refine_each(params, todo, given)) as each:
            for index, refined in each:
                refinement = _refinement(refined)
                self._journal.add(method.name, index, asdict(refinement))
                self._progress.count([refinement])

    def _measure_cost(self, layout: Layout) -> None:
        """selfRef@headline end to end, candidates generated: tokens and seconds by phase."""
        k, name = self._config.headline, _cost(layout)
        params = self._config.refine_params(layout, k)
        todo = self._journal.missing(name, self._costed)
        self._progress.begin(name, len(todo))
        with closing(self._cost_evaluator.refine_each(params, todo)) as each:
            for index, refined in each:
                usage = refined.result.usage
                value = {"generated_tokens": usage.completion_tokens, "phases": usage.as_dict()}
                self._journal.add(name, index, value)
                drawn = [_solution(attempt) for attempt in refined.candidates]
                self._progress.count([*drawn, _refinement(refined)], k + 1)

    def _total_cost(self, layout: Layout) -> dict[str, Any]:
        costs = [self._journal.get(_cost(layout), index) for index in self._costed]
        phases: dict[str, Counter[str]] = {}
        for cost in costs:
            for phase, counts in cost["phases"].items():
                phases.setdefault(phase, Counter()).update(counts)
        return {
            "problems": len(costs),
            # The shares of all requests add up to the time that the engine was busy.
            "seconds": sum(phase["seconds"] for phase in phases.values()),
            "generated_tokens": sum(cost["generated_tokens"] for cost in costs),
            "phases": {phase: dict(counts) for phase, counts in phases.items()},
        }

    def _result(self, index: int) -> ProblemResult:
        problem = self._problems[index]

        def solutions(name: str) -> list[Solution]:
            return [Solution(**one) for one in self._journal.get(name, index)["solutions"]]

        (greedy,) = solutions("greedy")
        result = ProblemResult(
            problem.id, problem.text, problem.gold, problem.size, solutions("candidates"), greedy
        )
        for method in self._methods:
            if method.layout is not None:
                refinement = Refinement(**self._journal.get(method.name, index))
                result.refinements[method.name] = refinement
        return result


def _cost(layout: Layout) -> str:
    return f"cost of {layout}"


def _digest(problems: Sequence[BenchmarkProblem]) -> str:
    rows = [[one.id, one.text, one.gold, one.size] for one in problems]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _solution(attempt: Attempt) -> Solution:
    completion = attempt.completion
    return Solution(
        text=completion.text,
        answer=attempt.answer,
        correct=attempt.correct,
        tokens=len(completion.token_ids),
        logprob=completion.logprob,
        finish_reason=completion.finish_reason,
        token_ids=completion.content_ids,
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
        token_ids=drawn.content_ids if drawn else [],
        error=result.error,
        used=result.used,
    )
