"""selfRef@k during training: the engine solves and refines with the current weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.errors import GsrError, InvalidRequest
from gsr_engine.evaluation.evaluator import Evaluator, Exercise, vote
from train.command import log
from train.grading import grader_for
from train.problems import load_problems
from train.trainer.config import KV_CACHE_GIB, SftConfig
from train.trainer.export import export_model
from train.trainer.model import Trainee
from train.trainer.world import World


def read_exercises(file: Path) -> list[Exercise]:
    """The problems to measure with.

    Raises:
        InvalidRequest: there are none, or one has no answer.
    """
    exercises = []
    for problem in load_problems(file):
        if problem.answer is None:
            raise InvalidRequest("selfref", f"{file}: problem {problem.id} has no answer")
        exercises.append(Exercise(problem.text, problem.answer))
    return exercises


class SelfRefEvaluation:
    """Measures pass@1, maj@k and selfRef@k on some problems.

    The weights go through a folder, `<out>/evaluated`. The engine of the first rank loads them from
    there each time, while the other ranks wait. What the engine refuses, e.g. a problem that is too
    long, is told of, and the training goes on.
    """

    def __init__(
        self,
        exercises: Sequence[Exercise],
        config: SftConfig,
        source: Path,
        trainee: Trainee,
        world: World,
    ) -> None:
        self._config = config
        self._source = source
        self._trainee = trainee
        self._world = world
        self._exercises = exercises
        self._engine: Engine | None = None

    def __call__(self, step: int) -> dict[str, Any]:
        """Measure the weights of this step; all ranks must call it.

        Returns the fields of the log's line on the first rank, nothing on the others.
        """
        folder = self._config.out / "evaluated"
        first = self._world.rank == 0
        export_model(
            self._trainee,
            folder,
            self._source,
            dtype=getattr(torch, self._config.dtype),
            extra=[self._config.data / "gsr.json"],
            writes=first,
        )
        fields: dict[str, Any] = {}
        if first:
            try:
                fields = {"selfref": self._measure(self._load(folder))}
            except GsrError as error:
                log.warning("sft: selfRef@k is not measured at step %d: %s", step, error)
        self._world.wait()
        return fields

    def _load(self, folder: Path) -> Engine:
        if self._engine is None:
            self._engine = Engine.from_pretrained(
                folder, generation_config="none", kv_cache_gib=KV_CACHE_GIB
            )
        else:
            self._engine.reload_weights(folder)
        return self._engine

    def _measure(self, engine: Engine) -> dict[str, Any]:
        config, tokens = self._config, self._config.selfref_tokens
        exercises = self._exercises
        with grader_for(engine.gsr) as grader:
            evaluator = Evaluator(engine, exercises, grader)
            drawn = evaluator.draw(
                SamplingParams(n=config.selfref_k, max_tokens=tokens, seed=config.seed)
            )
            votes = [vote(attempts) for attempts in drawn]
            measured: dict[str, Any] = {
                "pass@1": _share(attempt.correct for attempts in drawn for attempt in attempts),
                "maj@k": _share(winner is not None and winner.correct for winner in votes),
            }
            candidates = [
                [attempt.completion.content_ids for attempt in attempts] for attempts in drawn
            ]
            for layout in engine.gsr.layouts:
                params = SelfRefineParams(
                    layout=layout,
                    seed=config.seed,
                    refine=SamplingParams(max_tokens=tokens, temperature=0.0),
                )
                refined = evaluator.refine(params, candidates).refined
                measured[layout] = _share(one.correct for one in refined)
        return {**measured, "problems": len(exercises)}

    def close(self) -> None:
        """Free the engine's memory."""
        if self._engine is not None:
            self._engine.close()


def _share(right: Iterable[bool]) -> float:
    hits = list(right)
    return round(sum(hits) / len(hits), 4)
