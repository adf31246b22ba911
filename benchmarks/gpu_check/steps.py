"""Decode steps of an engine: started, timed and profiled."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.stopwatch import Stopwatch
from gsr_engine import Engine, SamplingParams
from gsr_engine.requests.generate import GenerateRequest
from gsr_engine.step.transfer import Fetched

_TOP = 10


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Medians over some steps.

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
    """Time steps, after some in which graphs may be captured."""
    for _ in range(warm_up):
        engine.step()
    watch, whole, host = Stopwatch(), [], []
    with _watching(watch):
        for _ in range(steps):
            watch.reset()
            start = time.perf_counter()
            engine.step()
            whole.append(time.perf_counter() - start)
            host.append(whole[-1] - watch.seconds["wait"])
    return StepTimes(1e3 * median(whole), 1e3 * median(host))


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
