"""Part 5, how fast is selfRef@k on a model of 7B's shape, and what sharing and lookups gain.

Fixed lengths, as in `benchmarks.throughput`: both layouts, all sharing switched off, and
transformers' `generate` with other random weights. Everything runs twice. The first run has other
problems and captures the graphs. With lookup decoding a step may have more shapes: a row says how
many were captured in all, and how many of them in the second run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM

from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.steps import random_prompts, start_streams, step_bytes, time_steps
from benchmarks.kernels import measure_limits
from benchmarks.peers.job import Job, JobResult
from benchmarks.peers.transformers_generate import run_on
from benchmarks.random_weights import engine_over, model_config, random_problems, shape_config
from benchmarks.throughput.lookup_comparison import WAYS, Counts
from benchmarks.throughput.ours import RefineWork, end_to_end, sharing_off
from gsr_engine import EngineConfig, RefineResult
from gsr_engine.execution.device import paged_runner
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.weights import dummy_decoder
from gsr_engine.params import LAYOUTS, Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """The work: selfRef@k, the first k beside transformers, and groups of siblings that decode.

    Attributes:
        shape: of the model.
        ks: numbers of candidates, the most informative first.
        problems: how many.
        problem, candidate, refine: tokens of each.
        kv_gib: memory for KV.
        groups, siblings, shared, tail: groups of siblings with a problem of `shared` tokens. They
            are timed when each sibling has about `tail` own tokens.
        steps: timed steps of these groups.
    """

    shape: str = "7b"
    ks: tuple[int, ...] = (8, 16, 4)
    problems: int = 4
    problem: int = 512
    candidate: int = 256
    refine: int = 128
    kv_gib: float = 8.0
    groups: int = 16
    siblings: int = 8
    shared: int = 4096
    tail: int = 256
    steps: int = 32


_TINY = _Sizes(
    shape="tiny",
    ks=(2,),
    problems=2,
    problem=12,
    candidate=8,
    refine=6,
    kv_gib=0.05,
    groups=2,
    siblings=3,
    shared=40,
    tail=6,
    steps=2,
)


def run(setting: Setting, record: Record) -> None:
    """The most informative cases come first, because time may run out."""
    sizes = _TINY if setting.tiny else _Sizes()
    measure_limits(setting.device)  # while the memory is free
    setting.free_memory()
    device = torch.device(setting.device)
    decoder = dummy_decoder(model_config(sizes.shape), torch.bfloat16, device=device)
    first, *others = sizes.ks
    _measure(first, sizes, decoder, setting, record)
    case = f"k {first}, transformers"
    record.attempt("selfref", case, partial(_transformers, first, sizes, setting))
    for layout in LAYOUTS:
        _measure_lookup(layout, first, sizes, decoder, setting, record)
    for way in ("shared", "apart"):
        case = f"{sizes.groups} x {sizes.siblings} siblings, problems read {way}"
        siblings = partial(_siblings, way == "shared", sizes, decoder, setting)
        record.attempt("shared spans", case, siblings)
    for k in others:
        _measure(k, sizes, decoder, setting, record)


def _measure(k: int, sizes: _Sizes, decoder: Decoder, setting: Setting, record: Record) -> None:
    """Measure the three ways of this engine."""
    for way in (*LAYOUTS, "sharing off"):
        run = partial(_ours, way, k, sizes, decoder, setting)
        record.attempt("selfref", f"k {k}, {way}", run)


def _ours(way: str, k: int, sizes: _Sizes, decoder: Decoder, setting: Setting) -> Row:
    setting.free_memory()
    shares = way != "sharing off"
    options = {"kv_cache_gib": sizes.kv_gib, "prefix_cache": shares}
    with engine_over(decoder, device=setting.device, **options) as engine:
        for seed in range(2):  # other problems first
            if shares:
                result, _ = end_to_end(engine, _work(k, sizes, seed), cast(Layout, way))
            else:
                result = sharing_off(engine, _job(k, sizes))
    return _figures(result)


def _measure_lookup(
    layout: Layout, k: int, sizes: _Sizes, decoder: Decoder, setting: Setting, record: Record
) -> None:
    """Measure one layout without lookup decoding, then with it."""
    texts: list[list[list[int]]] = []
    for way in WAYS:
        run = partial(_lookup, layout, way, texts, k, sizes, decoder, setting)
        record.attempt("lookup decoding", f"k {k}, {layout}, {way}", run)


def _lookup(
    layout: Layout,
    way: str,
    texts: list[list[list[int]]],
    k: int,
    sizes: _Sizes,
    decoder: Decoder,
    setting: Setting,
) -> Row:
    """Appends the refinements to `texts`, and compares them with those without.

    In bf16 they may part: a product may depend on its number of rows. What is accepted are mostly
    the loops of random weights.
    """
    setting.free_memory()
    options: dict[str, Any] = {"kv_cache_gib": sizes.kv_gib, "speculative_config": WAYS[way]}
    config = EngineConfig(device=setting.device, **options)
    runner = paged_runner(decoder, config, lag=1, use_graphs=True)
    results: list[RefineResult] = []
    with engine_over(decoder, runner, device=setting.device, **options) as engine:
        for seed in range(2):  # other problems first
            before = runner.num_graphs
            result, results = end_to_end(engine, _work(k, sizes, seed), layout)
    texts.append([one.refinement.token_ids for one in results if one.refinement])
    counts = Counts.of(results)
    row = _figures(result) | {
        "decode_s": counts.decode_seconds,
        "tokens_per_step": counts.tokens_per_step,
        "proposed": counts.proposed,
        "accepted": counts.accepted,
        "graphs": runner.num_graphs,
        "new_graphs": runner.num_graphs - before,
    }
    if len(texts) == 1:
        return row
    return row | {"same": sum(one == other for one, other in zip(*texts, strict=True))}


def _work(k: int, sizes: _Sizes, seed: int) -> RefineWork:
    return RefineWork(
        model=Path(sizes.shape),
        problems=random_problems(sizes.problems, sizes.problem, seed),
        k=k,
        candidate_tokens=sizes.candidate,
        refine_tokens=sizes.refine,
        dtype="bfloat16",
        threads=torch.get_num_threads(),
        kv_gib=sizes.kv_gib,
    )


def _job(k: int, sizes: _Sizes) -> Job:
    """The same work as prompts of tokens; a linear prompt holds the problem and the candidates."""
    config = model_config(sizes.shape)
    linear = sizes.problem + k * sizes.candidate
    return Job(
        model=sizes.shape,
        dtype="bfloat16",
        threads=torch.get_num_threads(),
        k=k,
        prompts=random_prompts(sizes.problems, sizes.problem, config.vocab_size),
        candidate_tokens=sizes.candidate,
        refine_prompts=random_prompts(sizes.problems, linear, config.vocab_size),
        refine_tokens=sizes.refine,
        kv_gib=sizes.kv_gib,
    )


def _transformers(k: int, sizes: _Sizes, setting: Setting) -> Row:
    setting.free_memory()
    with torch.device(setting.device):
        model = AutoModelForCausalLM.from_config(
            shape_config(sizes.shape), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    return _figures(run_on(model.eval(), _job(k, sizes)))


def _figures(result: JobResult) -> Row:
    return {
        "tokens_per_s": result.tokens_per_second,
        "candidates_s": result.seconds_candidates,
        "refine_s": result.seconds_refine,
        "tokens": result.tokens,
    }


def _siblings(shares: bool, sizes: _Sizes, decoder: Decoder, setting: Setting) -> Row:
    """Decode steps of groups of siblings, each with its own tail."""
    setting.free_memory()
    config, streams = decoder.config, sizes.groups * sizes.siblings
    options = {"kv_cache_gib": sizes.kv_gib, "prefix_cache": False, "share_spans": shares}
    prompts = random_prompts(sizes.groups, sizes.shared, config.vocab_size)
    with engine_over(decoder, device=setting.device, **options) as engine:
        tokens = 2 * (sizes.tail + sizes.steps)
        requests = start_streams(engine, prompts, tokens, n=sizes.siblings)
        while len(requests[-1].streams[0].segment) < sizes.tail - sizes.steps // 2:
            engine.step()
        times = time_steps(engine, sizes.steps)
        counts = engine.stats()["shared_spans"] or {}
    kv_tokens = sizes.groups * sizes.shared + streams * sizes.tail
    least = step_bytes(config, decoder.dtype, kv_tokens)
    floor_ms = 1e-6 * least / measure_limits(setting.device).copy_gbs
    return {
        "ms": times.ms,
        "host_ms": times.host_ms,
        "floor_ms": floor_ms,
        "mbu": floor_ms / times.ms,
        "tokens_per_s": 1e3 * streams / times.ms,
        **counts,
    }
