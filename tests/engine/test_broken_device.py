"""A GPU without memory for a step costs nobody a token; one that broke ends the engine."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from gsr_engine import (
    AsyncEngine,
    Engine,
    EngineClosed,
    EngineConfig,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.execution.faults import breaks_device, lacks_memory
from gsr_engine.execution.runner import Launched
from gsr_engine.schedule.admission import AnyRequest
from gsr_engine.serving.http.errors import problem_of
from gsr_engine.serving.http.health import Health
from gsr_engine.step.plan import StepPlan
from tests.chaos.actions import Fault, random_history
from tests.chaos.engine_world import MAX_STREAMS, nano
from tests.chaos.nano_world import new_saboteur
from tests.chaos.saboteur import BROKEN, Saboteur
from tests.chaos.stub_runner import StubRunner
from tests.chaos.stub_world import StubWorld
from tests.helpers.readers import read

PARAMS = SamplingParams(n=3, max_tokens=20, seed=1, ignore_eos=True)
PROMPTS = [[9] * length + [6, 7] for length in (3, 150, 20, 90, 60)]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def new_engine(**options: Any) -> tuple[Engine, Saboteur]:
    runner = new_saboteur(200)
    config = EngineConfig(max_num_seqs=MAX_STREAMS, **options)
    return Engine(*nano(), config, runner=runner), runner


@pytest.mark.parametrize(
    ("error", "lacking", "broken"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True, False),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True, False),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access"), False, True),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), False, False),
        (ValueError("CUDA error"), False, False),
        (KeyboardInterrupt(), False, False),
    ],
)
def test_errors_are_told_apart(error: BaseException, lacking: bool, broken: bool) -> None:
    assert (lacks_memory(error), breaks_device(error)) == (lacking, broken)


@pytest.mark.parametrize("repeated", [True, False])
def test_an_error_that_cuda_does_not_repeat_breaks_nothing(
    repeated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def synchronize() -> None:
        if repeated:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    refused = torch.AcceleratorError("CUDA error: too many resources requested for launch")
    assert breaks_device(refused) is repeated
    assert not lacks_memory(refused)


class Narrow(StubRunner):
    """A device that has no memory for larger steps; it notes the tokens of every step."""

    def __init__(self, most_tokens: int, lag: int = 1) -> None:
        super().__init__(400, lag)
        self.scarce(10**6, most_tokens)
        self.sizes: list[int] = []

    def launch(self, plan: StepPlan) -> Any:
        self.sizes.append(plan.num_tokens)
        return super().launch(plan)


def run_on(runner: StubRunner) -> list[Any]:
    with Engine(*nano(), EngineConfig(max_num_seqs=MAX_STREAMS), runner=runner) as engine:
        results = engine.generate(PROMPTS, PARAMS)
        engine.check()
    return results


@pytest.mark.parametrize("most_tokens", [3, 4, 7, 40, 100])
@pytest.mark.parametrize("lag", [0, 1])
def test_steps_become_as_small_as_they_must(most_tokens: int, lag: int) -> None:
    """Five requests of three streams: with room for three rows they decode one after the other."""
    narrow = Narrow(most_tokens, lag)
    found = run_on(narrow)
    expected = run_on(StubRunner(400, lag))
    assert [r.completions for r in found] == [r.completions for r in expected]
    assert max(narrow.sizes) > most_tokens
    tried = sum(size > most_tokens for size in narrow.sizes)
    assert tried < len(narrow.sizes) * 2 / 3


def test_only_what_cannot_be_computed_alone_fails() -> None:
    narrow = Narrow(2)
    with Engine(*nano(), EngineConfig(max_num_seqs=MAX_STREAMS), runner=narrow) as engine:
        wide, slim = engine.generate([[9] * 30, [9] * 40], [PARAMS, SamplingParams(max_tokens=5)])
    assert "OutOfMemoryError: CUDA out of memory" in (wide.error or "")
    assert slim.error is None


class Scripted(StubRunner):
    """A device with this fault in each of its first launches, and none later."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(400, lag=1)
        self._faults = iter(faults)

    def launch(self, plan: StepPlan) -> Any:
        self.fault = next(self._faults, None)
        if self.fault == "memory":
            self.scarce(1, 0)
        return super().launch(plan)


def test_a_step_that_lacks_memory_may_find_its_only_request_ended() -> None:
    """The step before it is lost, and with it the request of both; another one waits."""
    runner = Scripted("memory", "transfer", "memory")
    with Engine(*nano(), EngineConfig(max_num_seqs=1), runner=runner) as engine:
        lost, later = engine.generate([[9, 9], [9, 6]], SamplingParams(max_tokens=5))
    assert lost.error == "RuntimeError: the device burnt down"
    assert later.error is None


@pytest.mark.parametrize("seed", range(12))
def test_scarce_memory_costs_nobody_a_token(seed: int) -> None:
    """Random requests, and now and then no memory for large steps: see `StubWorld`."""
    rng = random.Random(seed)
    world = StubWorld.random(seed)
    world.faults = ("memory",)
    for event in random_history(seed, 200):
        if rng.random() < 0.1:
            world.fault("memory", rng)
        event.happen(world)
        world.check()
    world.drain()
    assert all("OutOfMemory" not in (one.result.error or "") for one in world.ended)


def break_at(runner: Saboteur, launch: int, place: str) -> None:
    """Let the device break in this launch, or while its tokens are waited for."""
    inner, count = runner.launch, Counter[str]()

    def broken(plan: StepPlan) -> Launched:
        count["launches"] += 1
        if count["launches"] > launch:
            raise torch.AcceleratorError(BROKEN)  # CUDA repeats it for ever
        if count["launches"] == launch:
            if place == "launch":
                runner.fault = "broken"
            else:
                inner(plan)
                return _Unreadable()
        return inner(plan)

    runner.launch = broken  # type: ignore[method-assign]


class _Unreadable:
    def wait(self) -> Any:
        raise torch.AcceleratorError(BROKEN)


@pytest.mark.parametrize("place", ["launch", "wait"])
@pytest.mark.parametrize("launch", [1, 2, 9])
def test_a_device_that_broke_ends_the_engine(launch: int, place: str) -> None:
    engine, runner = new_engine()
    requests: list[AnyRequest] = [engine.new_generate(prompt, PARAMS) for prompt in PROMPTS]
    one = replace(PARAMS, n=1, seed=None)
    requests.append(
        engine.new_self_refine("1 * 2", SelfRefineParams(k=2, candidate=one, refine=one))
    )
    short = engine.new_generate([9, 9], SamplingParams(max_tokens=1))
    for request in (short, *requests):
        engine.submit(request)
    break_at(runner, launch, place)
    reported: Counter[AnyRequest] = Counter()
    for _ in range(launch - 1):
        reported.update(engine.step())
    with pytest.raises(EngineClosed, match=r"illegal memory access was encountered$") as told:
        engine.step()
    assert isinstance(told.value.__cause__, torch.AcceleratorError)
    assert str(engine.ended) == str(told.value)
    while engine.has_work:
        reported.update(engine.step())
    assert reported == Counter([short, *requests])
    assert all("AcceleratorError: CUDA error" in request.result.error for request in requests)
    assert (short.result.error is None) == (launch > 1)
    for call in (engine.step, lambda: engine.generate([PROMPTS[0]], PARAMS)):
        with pytest.raises(EngineClosed, match="AcceleratorError"):
            call()
    engine.abort(requests[0])
    assert engine.stats()["pages_used"] == 0
    engine.close()
    engine.close()


def test_generate_raises_it() -> None:
    engine, runner = new_engine()
    break_at(runner, 3, "launch")
    with pytest.raises(EngineClosed, match="AcceleratorError"):
        engine.generate(PROMPTS, PARAMS)


def test_an_async_engine_ends_and_says_so() -> None:
    async def main() -> None:
        inner, runner = new_engine()
        async with AsyncEngine(inner) as engine:
            health = Health(engine, 300)
            assert (await read(engine.generate(PROMPTS[0], PARAMS)))[-1].result.error is None
            break_at(runner, 5, "wait")
            reads = [read(engine.generate(prompt, PARAMS)) for prompt in PROMPTS]
            for told in await asyncio.gather(*reads, return_exceptions=True):
                assert isinstance(told, EngineClosed)
                assert isinstance(told.__cause__, torch.AcceleratorError)
            await asyncio.wrap_future(engine.loop.ended)
            assert health.why_not_alive() is not None
            with pytest.raises(EngineClosed, match="illegal memory access") as refused:
                await read(engine.generate(PROMPTS[0], PARAMS))
        problem = problem_of(refused.value)
        assert (problem.status, problem.message) == (
            503,
            "the engine has ended after AcceleratorError",
        )

    asyncio.run(main())


def test_an_async_engine_ends_if_a_call_between_two_steps_breaks_it() -> None:
    async def main() -> None:
        inner, _ = new_engine()
        async with AsyncEngine(inner) as engine:

            def broken() -> None:
                raise torch.AcceleratorError(BROKEN)

            pytest.MonkeyPatch().setattr(inner.scheduler, "end", lambda *_: broken())
            with pytest.raises(EngineClosed, match="AcceleratorError"):
                await asyncio.wrap_future(
                    engine.loop.call(lambda: inner.abort(inner.new_generate("1", PARAMS)))
                )
            await asyncio.wrap_future(engine.loop.ended)

    asyncio.run(main())
