"""What lookup decoding gains in selfRef@8 on a model of 7B's shape; it runs only if it is named.

Everything runs twice, the first time over other problems. What is accepted are mostly the loops of
random weights; `python -m benchmarks.throughput --speculative` takes real texts.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.selfref import TINY, Sizes, figures
from benchmarks.gpu_check.setting import Setting
from benchmarks.random_weights import engine_over, model_config
from benchmarks.throughput.lookup_comparison import WAYS, Counts
from benchmarks.throughput.ours import end_to_end
from gsr_engine import EngineConfig, RefineResult
from gsr_engine.execution.device import paged_runner
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.weights import dummy_decoder
from gsr_engine.params import LAYOUTS, Layout

_SIZES = replace(Sizes(), problems=4, refine=128, kv_gib=8.0)


def run(setting: Setting, record: Record) -> None:
    """Each layout without lookup decoding, then with it."""
    sizes = TINY if setting.tiny else _SIZES
    setting.free_memory()
    device = torch.device(setting.device)
    decoder = dummy_decoder(model_config(sizes.shape), torch.bfloat16, device=device)
    for layout in LAYOUTS:
        texts: list[list[list[int]]] = []
        for way in WAYS:
            run = partial(_lookup, layout, way, texts, sizes, decoder, setting)
            record.attempt("lookup decoding", f"k {sizes.k}, {layout}, {way}", run)


def _lookup(
    layout: Layout,
    way: str,
    texts: list[list[list[int]]],
    sizes: Sizes,
    decoder: Decoder,
    setting: Setting,
) -> Row:
    """Appends the refinements to `texts`, and compares them with those without.

    In bf16 they may part: a product may depend on its number of rows.
    """
    setting.free_memory()
    options: dict[str, Any] = {"kv_cache_gib": sizes.kv_gib, "speculative_config": WAYS[way]}
    config = EngineConfig(device=setting.device, **options)
    runner = paged_runner(decoder, config, lag=1, use_graphs=True)
    results: list[RefineResult] = []
    with engine_over(decoder, runner, device=setting.device, **options) as engine:
        for seed in range(2):  # other problems first
            result, results = end_to_end(engine, sizes.work(seed), layout)
    texts.append([one.refinement.token_ids for one in results if one.refinement])
    counts = Counts.of(results)
    row = figures(result) | {
        "decode_s": counts.decode_seconds,
        "tokens_per_step": counts.tokens_per_step,
        "proposed": counts.proposed,
        "accepted": counts.accepted,
        "graphs": runner.num_graphs,
    }
    if len(texts) == 1:
        return row
    return row | {"same": sum(one == other for one, other in zip(*texts, strict=True))}
