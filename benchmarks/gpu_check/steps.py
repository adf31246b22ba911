"""Decode steps of an engine: started, timed and profiled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_check.record import Row
from benchmarks.stopwatch import Stopwatch
from gsr_engine import Engine, SamplingParams
from gsr_engine.requests.generate import GenerateRequest
from gsr_engine.step.transfer import Fetched

_TOP = 10
# What the engine says of captures; in a row these names mean something else.
_OF_CAPTURES = {"failed": "captures_failed", "seconds": "captures_s", "bytes": "captures_bytes"}


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Milliseconds of a step.

    Attributes:
        ms: from one step to the next; the slower of host and device decides.
        host_ms: the part in which the host did not wait for the device.
    """

    ms: float
    host_ms: float


def start_streams(
    engine: Engine, prompts: Sequence[list[int]], tokens: int, n: int = 1
) -> list[GenerateRequest]:
    """Submit prompts with n streams each and step until every stream of the engine decodes.

    Raises:
        RuntimeError: a stream ended before that.
    """
    params = SamplingParams(n=n, max_tokens=tokens, ignore_eos=True, seed=0)
    requests = [engine.new_generate(ids, params, index=i) for i, ids in enumerate(prompts)]
    for request in requests:
        engine.submit(request)
    while not all(r.streams and all(len(s.segment) > 1 for s in r.streams) for r in requests):
        if any(request.finished for request in requests):
            raise RuntimeError("a stream ended before all of them decoded")
        engine.step()
    return requests


def graph_counts(engine: Engine) -> Row:
    """How many graphs an engine has, and how many of its steps replayed one; empty without."""
    counts = engine.stats().get("cuda_graphs") or {}
    return {_OF_CAPTURES.get(name, name): count for name, count in counts.items()}


def random_prompts(count: int, tokens: int, vocab_size: int) -> list[list[int]]:
    """Random token ids, so that prompts have nearly nothing in common."""
    return torch.randint(vocab_size, (count, tokens)).tolist()


@contextmanager
def _watching(watch: Stopwatch) -> Iterator[None]:
    """Count the seconds in which the host waits for the device's draws."""
    wait = Fetched.wait
    watch.watch(Fetched, "wait")
    try:
        yield
    finally:
        Fetched.wait = wait  # type: ignore[method-assign]


def time_steps(engine: Engine, steps: int, warm_up: int = 4) -> StepTimes:
    """The medians of some steps, behind a few that settle the streams."""
    for _ in range(warm_up):
        engine.step()
    times = each_step(engine.step, steps)
    return StepTimes(median(one.ms for one in times), median(one.host_ms for one in times))


def each_step(step: Callable[[], object], steps: int) -> list[StepTimes]:
    """The times of every one of some steps."""
    watch, times = Stopwatch(), []
    with _watching(watch):
        for _ in range(steps):
            watch.reset()
            start = time.perf_counter()
            step()
            seconds = time.perf_counter() - start
            times.append(StepTimes(1e3 * seconds, 1e3 * (seconds - watch.seconds["wait"])))
    return times


def profile_steps(engine: Engine, steps: int, device: str) -> str:
    """The kernels that take most time of some steps (on a CPU, the operators), as text."""
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as found:
        for _ in range(steps):
            engine.step()
    wanted = "CUDA" if on_gpu else "CPU"
    times = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event)
        for event in found.key_averages()
        if event.device_type.name == wanted
    ]
    total = sum(us for us, _ in times) or 1.0
    lines = [f"{'us/step':>10} {'share':>6} {'calls':>6}  of {total / steps:.0f} us/step in all"]
    for us, event in sorted(times, key=lambda one: -one[0])[:_TOP]:
        calls = event.count / steps
        lines.append(f"{us / steps:10.1f} {us / total:6.1%} {calls:6.1f}  {event.key[:150]}")
    return "\n".join(lines)
