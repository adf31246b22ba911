"""How the cost of selfRef@k grows with k, with lengths and with the number of problems."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.random_weights import random_engine
from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.params import LAYOUTS, Layout


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """The work: P problems, k candidates of each, one refinement; lengths in tokens."""

    k: int = 4
    problem: int = 32
    candidate: int = 64
    problems: int = 4


AXES = {
    "k": "k candidates",
    "problem": "problem tokens",
    "candidate": "candidate tokens",
    "problems": "P problems",
}
"""Fields of `SweepPoint` and their labels; the refinement's length stays fixed."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost by layout: seconds, and tokens that went through the model."""

    axis: str
    work: SweepPoint
    seconds: dict[Layout, float]
    tokens: dict[Layout, int]

    @property
    def value(self) -> int:
        """The value on the axis."""
        return int(getattr(self.work, self.axis))


def measure_growth(
    shape: str,
    base: SweepPoint,
    sweeps: Mapping[str, Sequence[int]],
    refinement: int = 64,
    rounds: int = 1,
    **options: Any,
) -> Iterator[Cost]:
    """The cost along each axis, the other values at the base; the median of the rounds counts.

    The layouts alternate. Every stream generates its full length, so the work does not depend on
    the draws. There is no prefix cache, because a run would find the prompts of the run before.
    """
    with random_engine(shape, prefix_cache=False, **options) as engine:
        for layout in LAYOUTS:
            _run(engine, base, layout, refinement)  # the first run warms up
        for axis, values in sweeps.items():
            for value in values:
                work = replace(base, **{axis: value})
                runs = [
                    {layout: _run(engine, work, layout, refinement) for layout in LAYOUTS}
                    for _ in range(rounds)
                ]
                yield Cost(
                    axis,
                    work,
                    {name: statistics.median(run[name][0] for run in runs) for name in LAYOUTS},
                    {name: runs[0][name][1] for name in LAYOUTS},
                )


def _run(engine: Engine, work: SweepPoint, layout: Layout, refinement: int) -> tuple[float, int]:
    rng = random.Random(0)
    problems = ["".join(rng.choices("0123456789", k=work.problem)) for _ in range(work.problems)]
    params = SelfRefineParams(
        k=work.k,
        layout=layout,
        candidate=SamplingParams(max_tokens=work.candidate, ignore_eos=True),
        refine=SamplingParams(temperature=0.0, max_tokens=refinement, ignore_eos=True),
        seed=0,
        force_layout=True,
    )
    before, start = _tokens(engine), time.perf_counter()
    engine.self_refine(problems, params)
    return time.perf_counter() - start, _tokens(engine) - before


def _tokens(engine: Engine) -> int:
    phases: dict[str, dict[str, int]] = engine.stats()["phases"]
    return sum(phase["tokens_computed"] for phase in phases.values())
