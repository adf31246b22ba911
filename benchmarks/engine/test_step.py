"""One step and its parts, with all streams decoding."""

from __future__ import annotations

from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from gsr_engine import Engine
from gsr_engine.execution.sampler import Draws
from gsr_engine.step.batch import build_batch

_ROUNDS = 200


def test_plan(benchmark: BenchmarkFixture, decoding: Engine) -> None:
    """Planning a step. A plan changes nothing that the next plan reads, so it can be repeated."""
    benchmark(decoding.scheduler.plan)


def test_commit(benchmark: BenchmarkFixture, decoding: Engine) -> None:
    """Taking the tokens of a step."""
    scheduler = decoding.scheduler

    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        plan = scheduler.plan()
        count = len(plan.draws)
        scheduler.launched(plan)
        return (plan, *Draws([7] * count, [-1.0] * count)), {}

    benchmark.pedantic(scheduler.commit, setup=setup, rounds=_ROUNDS, warmup_rounds=5)


def test_build_batch(benchmark: BenchmarkFixture, decoding: Engine) -> None:
    """From a plan to the step's tensors."""
    benchmark(build_batch, decoding.scheduler.plan())


def test_step_without_a_model(benchmark: BenchmarkFixture, decoding: Engine) -> None:
    """A whole step, the model stubbed."""
    benchmark.pedantic(decoding.step, rounds=_ROUNDS, warmup_rounds=5)


def test_step_of_nano(benchmark: BenchmarkFixture, nano: Engine) -> None:
    """A whole step of the model in the box, fp32."""
    benchmark.pedantic(nano.step, rounds=40, warmup_rounds=3)
