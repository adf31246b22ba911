"""The host's share of a step: everything but the model and the draws."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import SimpleNamespace

from benchmarks.random_weights import write_checkpoint
from benchmarks.stopwatch import Stopwatch
from gsr_engine import Engine, EngineConfig, SamplingParams
from gsr_engine.execution.device import build_runner
from gsr_engine.execution.loading import load_parts
from gsr_engine.execution.runner import Runner

_N = 4
"""Streams per prompt."""


@dataclass(frozen=True, slots=True)
class HostShare:
    """Milliseconds per decode step by part, in the order of the step, and of the whole step.

    `model` and `draw` are tensor operations, which a device would do. The rest is the host's.
    """

    shape: str
    streams: int
    steps: int
    parts: dict[str, float]
    step_ms: float

    @property
    def host_ms(self) -> float:
        """Milliseconds of a step that are the host's."""
        return self.step_ms - self.parts["model"] - self.parts["draw"]


def measure_host(shape: str, streams: int, steps: int, prompt: int = 32) -> HostShare:
    """Time the parts of decode steps of some streams, 4 to a prompt."""
    config = EngineConfig(max_num_seqs=max(streams, _N), kv_cache_gib=0.5)
    decoder, tokenizer, gsr = load_parts(write_checkpoint(shape), config)
    runner = build_runner(decoder, config)
    with Engine(decoder, tokenizer, gsr, config, runner=runner) as engine:
        _start(engine, streams, steps, prompt)
        watch = _watch(engine, runner)
        for _ in range(steps):
            engine.step()
        return _shares(watch, shape, engine.scheduler.num_running_streams, steps)


def _start(engine: Engine, streams: int, steps: int, prompt: int) -> None:
    """Submit streams that outlive `steps` steps, and step until they decode."""
    warm_up = 3
    rng = random.Random(0)
    params = SamplingParams(n=_N, max_tokens=steps + warm_up + 2, ignore_eos=True, seed=0)
    for index in range(max(1, streams // _N)):
        ids = [rng.randrange(6, engine.limits.vocab_size) for _ in range(prompt)]
        engine.submit(engine.new_generate(ids, params, index=index))
    for _ in range(warm_up):  # the prompts, and the first decode steps
        engine.step()


def _shares(watch: Stopwatch, shape: str, streams: int, steps: int) -> HostShare:
    ms = {name: total / steps * 1e3 for name, total in watch.seconds.items()}
    parts = {
        "plan": ms["plan"],
        "batch": ms["launch"] - ms["begin"] - ms["hidden"] - ms["logits"] - ms["draw"],
        "attention tables": ms["begin"],
        "model": ms["hidden"] + ms["logits"],
        "draw": ms["draw"],
        "commit": ms["commit"],
        "rest": ms["step"] - ms["plan"] - ms["launch"] - ms["commit"],
    }
    return HostShare(shape, streams, steps, parts, ms["step"])


def _watch(engine: Engine, runner: Runner) -> Stopwatch:
    watch, old = Stopwatch(), runner.decoder
    # The decoder is frozen: its methods are watched on a stand-in.
    decoder = SimpleNamespace(hidden=old.hidden, logits=old.logits, device=old.device)
    runner.decoder = decoder  # type: ignore[assignment]
    for owner, name in (
        (engine, "step"),
        (engine.scheduler, "plan"),
        (runner, "launch"),
        (runner.attention, "begin"),
        (decoder, "hidden"),
        (decoder, "logits"),
        (runner.sampler, "draw"),
        (engine.scheduler, "commit"),
    ):
        watch.watch(owner, name)
    return watch
