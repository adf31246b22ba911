"""How many threads an engine takes, and engines that compute beside each other."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from gsr_engine import AsyncEngine, Engine, SamplingParams, SelfRefineParams, final_result
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.execution import threads
from gsr_engine.execution.threads import available_threads, cpu_quota

PROBLEMS = [puzzle.problem for puzzle in sample_puzzles("validation", 5, 2)]
SAMPLING = SamplingParams(n=4, seed=3, max_tokens=8, ignore_eos=True)
PARAMS = SelfRefineParams(
    k=2,
    seed=3,
    view="full",  # a few tokens are no summary
    candidate=SamplingParams(max_tokens=12),
    refine=SamplingParams(max_tokens=12, temperature=0.0),
)


@pytest.fixture
def torch_number() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def system(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A system whose process is in these groups; the files lie below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("", {"cpu.max": "100000 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "900000 300000"}, 3.0),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "900000 300000"}, 2.0),
        ("0::/docker/0a\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/a\n", {"a/cpu.max": "200000\n", "cpu.max": "300000 100000\n"}, 3.0),
        ("0::/\n", {"cpu.max": "-1 100000\n"}, None),
        ("0::/\n", {"cpu.max": "200000 0\n"}, None),
        ("0::/\n", {"cpu.max": "two many\n"}, None),
        ("0::/\n", {"cpu.max": ""}, None),
        (
            "5:cpu,cpuacct:/a\n2:cpuset:/b\n",
            {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        (
            "1:cpu:/a\n0::/\n",
            {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ("1:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "100000\n"}, None),
        (
            "2:cpuset:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            None,
        ),
    ],
)
def test_the_quota_is_the_smallest_along_the_path(
    groups: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    assert cpu_quota(system(tmp_path, groups, files)) == quota


@pytest.mark.parametrize("quota", [0.2, 1.0, 2.3, 9.0])
def test_none_takes_the_smallest(
    quota: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    torch_number: Callable[[int], None],
) -> None:
    root = system(tmp_path, "0::/\n", {"cpu.max": f"{int(quota * 100_000)} 100000\n"})
    for number in (1, 2, 4):
        torch_number(number)
        for cores in (1, 3):
            monkeypatch.setattr(threads, "affinity", lambda cores=cores: cores)
            assert available_threads(root) == min(number, cores, math.ceil(quota))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity")
def test_the_affinity_counts(torch_number: Callable[[int], None]) -> None:
    torch_number(64)
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def watched(engine: Engine) -> list[int]:
    """torch's number at each step that is to come."""
    seen, plan = list[int](), engine.scheduler.plan

    def planning() -> Any:
        seen.append(torch.get_num_threads())
        return plan()

    engine.scheduler.plan = planning  # type: ignore[method-assign]
    return seen


def tokens(engine: Engine) -> list[Any]:
    results = engine.generate(PROBLEMS, SAMPLING)
    return [one.token_ids for result in results for one in result.completions]


def test_steps_run_with_the_number_and_the_host_keeps_its_own(
    torch_number: Callable[[int], None],
) -> None:
    torch_number(2)
    with Engine.from_pretrained(NANO, threads=3) as engine:
        seen, between = watched(engine), list[int]()
        request = engine.new_generate(PROBLEMS[0], SAMPLING)
        engine.run([request], lambda _: between.append(torch.get_num_threads()))
        assert set(seen) == {3}
        assert set(between) == {2}
        assert engine.threads == 3

        def failing() -> Any:
            raise RuntimeError("a step")

        engine.scheduler.plan = failing  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="a step"):
            engine.generate(PROBLEMS, SAMPLING)
        assert torch.get_num_threads() == 2
    with Engine.from_pretrained(NANO) as engine:
        assert engine.threads == available_threads()


def test_two_engines_in_two_threads_give_what_each_gives_alone() -> None:
    ready = threading.Barrier(2, timeout=60)

    def run(number: int) -> tuple[list[Any], set[int]]:
        with Engine.from_pretrained(NANO, threads=number) as engine:
            seen = watched(engine)
            ready.wait()
            return tokens(engine), set(seen)

    with Engine.from_pretrained(NANO, threads=2) as engine:
        alone = tokens(engine)
    for numbers in ((2, 2), (2, 3)):
        with ThreadPoolExecutor(2) as pool:
            beside = list(pool.map(run, numbers))
        assert beside == [(alone, {number}) for number in numbers]


def test_an_async_engine_beside_an_engine_that_refines_elsewhere() -> None:
    def written(result: Any) -> list[Any]:
        return [one.token_ids for one in (*result.candidates, result.refinement)]

    def refine_elsewhere() -> list[Any]:
        with (
            Engine.from_pretrained(NANO, threads=2) as writer,
            Engine.from_pretrained(NANO, threads=2) as refiner,
        ):
            return list(map(written, writer.self_refine(PROBLEMS, PARAMS, refiner=refiner)))

    async def serve(beside: bool) -> tuple[list[Any], list[Any] | None]:
        async with AsyncEngine.from_pretrained(NANO, threads=2) as engine:
            other = asyncio.create_task(asyncio.to_thread(refine_elsewhere)) if beside else None
            events = (engine.self_refine(problem, PARAMS) for problem in PROBLEMS)
            served = [written(one) for one in await asyncio.gather(*map(final_result, events))]
            return served, await other if other else None

    alone = asyncio.run(serve(False))[0], refine_elsewhere()
    assert asyncio.run(serve(True)) == alone
