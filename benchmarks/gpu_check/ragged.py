"""Steps under a ragged load: 256 slots, answers of 50 to 500 tokens, so streams join and leave.

As in `benchmarks.scaling`, which times the host alone. Here means count, not medians: what a join
costs is in them. Nothing may be compiled or captured while it runs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median

import torch

from benchmarks.gpu_check.compilations import compilations
from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.steps import each_step, graph_counts
from benchmarks.random_weights import engine_over, model_config
from benchmarks.scaling.ragged import ANSWER, PROMPT, submit_ragged
from gsr_engine import Engine
from gsr_engine.model.weights import dummy_decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """A load on one model.

    Attributes:
        shape: of the model.
        slots: streams at the same time; whoever ends is replaced at once.
        prompt, answer: bounds of their lengths.
        steps: timed steps.
        kv_gib: memory for KV.
    """

    shape: str
    slots: int = 256
    prompt: tuple[int, int] = PROMPT
    answer: tuple[int, int] = ANSWER
    steps: int = 300
    kv_gib: float = 16.0


_REAL = (_Load(shape="0.5b"), _Load(shape="7b"))
_TINY = (_Load(shape="tiny", slots=4, prompt=(5, 9), answer=(2, 6), steps=12, kv_gib=0.05),)


def run(setting: Setting, record: Record) -> None:
    """Model by model."""
    for load in _TINY if setting.tiny else _REAL:
        record.attempt("ragged", f"{load.shape}, {load.slots} slots", partial(_run, load, setting))


def _run(load: _Load, setting: Setting) -> Row:
    setting.free_memory()
    config, device = model_config(load.shape), torch.device(setting.device)
    decoder = dummy_decoder(config, torch.bfloat16, device=device)
    options = {"kv_cache_gib": load.kv_gib, "max_num_seqs": load.slots}
    with engine_over(decoder, device=setting.device, **options) as engine:
        return _measure(load, engine, range(config.vocab_size))


def _measure(load: _Load, engine: Engine, tokens: range) -> Row:
    rng, joins = random.Random(0), 0

    def submit() -> None:
        submit_ragged(engine, tokens, rng, load.prompt, load.answer)

    def step() -> None:
        nonlocal joins
        for _ in engine.step():
            joins += 1
            submit()

    for _ in range(load.slots):
        submit()
    while engine.scheduler.num_running_streams < load.slots:
        step()
    joins, before = 0, graph_counts(engine)
    with compilations() as compiled:
        times = each_step(step, load.steps)
    graphs = graph_counts(engine)
    change = {name: count - before[name] for name, count in graphs.items()}
    row: Row = {
        "mean_ms": fmean(one.ms for one in times),
        "median_ms": median(one.ms for one in times),
        "worst_ms": max(one.ms for one in times),
        "host_ms": fmean(one.host_ms for one in times),
        "joins": joins,
        "tokens_per_s": 1e3 * load.slots / fmean(one.ms for one in times),
        **change,
        "compiled": len(compiled),
    }
    return row | {"passed": not compiled and change.get("graphs", 0) == 0}
