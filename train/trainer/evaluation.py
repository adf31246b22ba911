"""selfRef@k during training: the engine solves and refines with the current weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.text.answers import majority
from train.grading import Grader
from train.problems import load_problems
from train.trainer.config import KV_CACHE_GIB, SftConfig
from train.trainer.export import export_model
from train.trainer.model import Trainee
from train.trainer.world import World


class SelfRefEvaluation:
    """Measures pass@1, maj@k and selfRef@k on the problems of a file.

    The weights go through a folder, `<out>/evaluated`. The engine of the first rank loads them from
    there each time, while the other ranks wait.
    """

    def __init__(
        self, problems: Path, config: SftConfig, source: Path, trainee: Trainee, world: World
    ) -> None:
        self._config = config
        self._source = source
        self._trainee = trainee
        self._world = world
        self._problems = load_problems(str(problems))
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
        fields = {"selfref": self._measure(self._load(folder))} if first else {}
        self._world.wait()
        return fields

    def _load(self, folder: Path) -> Engine:
        if self._engine is None:
            self._engine = Engine.from_pretrained(folder, kv_cache_gib=KV_CACHE_GIB)
        else:
            self._engine.reload_weights(folder)
        return self._engine

    def _measure(self, engine: Engine) -> dict[str, Any]:
        config, problems = self._config, self._problems
        tokens = config.selfref_tokens
        sampling = SamplingParams(n=config.selfref_k, max_tokens=tokens, seed=config.seed)
        drawn = engine.generate([engine.direct_prompt(p.text) for p in problems], sampling)
        answers = [[engine.find_answer(c) for c in result.completions] for result in drawn]
        candidates = [[c.content_ids for c in result.completions] for result in drawn]
        symbolic = engine.gsr.answer_pattern is None
        with Grader(symbolic=symbolic) as grader:

            def share(found: list[list[str | None]]) -> float:
                right = [
                    grader.correct(one, str(problem.answer))
                    for problem, mine in zip(problems, found, strict=True)
                    for one in mine
                ]
                return round(sum(right) / len(right), 4)

            votes = [(mine, majority(mine)) for mine in answers]
            measured: dict[str, Any] = {
                "pass@1": share(answers),
                "maj@k": share([[mine[i]] if i is not None else [None] for mine, i in votes]),
            }
            for layout in engine.gsr.layouts:
                params = SelfRefineParams(
                    layout=layout,
                    seed=config.seed,
                    refine=SamplingParams(max_tokens=tokens, temperature=0.0),
                )
                refined = engine.self_refine([p.text for p in problems], params, candidates)
                measured[layout] = share([[result.answer] for result in refined])
        return {**measured, "problems": len(problems)}

    def close(self) -> None:
        """Free the engine's memory."""
        if self._engine is not None:
            self._engine.close()
