"""What reading a problem together gains: decode steps of 16 x 8 siblings of a problem of 4k.

Beside the steps stand the constants that the engine measured to decide, and what they predict for
one launch of decode attention, against two launches that were timed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

import csrc_triton
from benchmarks.gpu_check.floor import Floor
from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.steps import random_prompts, start_streams, time_steps
from benchmarks.kernels import measure_limits
from benchmarks.kernels.decode import GROUPS, TINY, DecodeCase, DecodeWorld, time_decode
from benchmarks.random_weights import engine_over, model_config
from gsr_engine.attention.kv_cache import KVCache, page_bytes
from gsr_engine.attention.sharing import measure_costs
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.weights import dummy_decoder

_ASKED = 1.5
"""Together against apart, in time of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """The work.

    Attributes:
        shape: of the model.
        groups, siblings: of streams.
        problem: tokens that the siblings of a group share.
        tail: tokens that each sibling has of its own, about the middle of the timed steps.
        steps: timed steps.
        kv_gib: memory for KV.
        case: the same reads as one launch, apart; its other way is together.
    """

    shape: str = "7b"
    groups: int = 16
    siblings: int = 8
    problem: int = 4096
    tail: int = 256
    steps: int = 32
    kv_gib: float = 8.0
    case: DecodeCase = GROUPS


_TINY = _Sizes(
    shape="tiny",
    groups=2,
    siblings=3,
    problem=40,
    tail=6,
    steps=2,
    kv_gib=0.05,
    case=replace(TINY[1], share=False),
)
_WAYS = {"together": True, "apart": False}


def run(setting: Setting, record: Record) -> None:
    """Steps both ways, then launches."""
    sizes = _TINY if setting.tiny else _Sizes()
    measure_limits(setting.device)  # while the memory is free
    setting.free_memory()
    device = torch.device(setting.device)
    decoder = dummy_decoder(model_config(sizes.shape), torch.bfloat16, device=device)
    ms: dict[str, float] = {}
    shape = f"{sizes.groups} x {sizes.siblings} siblings of {sizes.problem}"
    for way in _WAYS:
        steps = partial(_steps, way, ms, sizes, decoder, setting)
        record.attempt("siblings", f"{shape}, {way}", steps)
    if len(ms) == len(_WAYS):
        gain = ms["apart"] / ms["together"]
        record.target(f"together against apart, {shape}", asked=_ASKED, measured=gain)
    costs = partial(_costs, sizes, decoder.config, setting)
    record.attempt("sharing costs", shape, costs)


def _steps(
    way: str, ms: dict[str, float], sizes: _Sizes, decoder: Decoder, setting: Setting
) -> Row:
    setting.free_memory()
    config, streams = decoder.config, sizes.groups * sizes.siblings
    options = {"kv_cache_gib": sizes.kv_gib, "prefix_cache": False, "share_spans": _WAYS[way]}
    prompts = random_prompts(sizes.groups, sizes.problem, config.vocab_size)
    with engine_over(decoder, device=setting.device, **options) as engine:
        tokens = 2 * (sizes.tail + sizes.steps)
        requests = start_streams(engine, prompts, tokens, n=sizes.siblings)
        while len(requests[-1].streams[0].segment) < sizes.tail - sizes.steps // 2:
            engine.step()
        times = time_steps(engine, sizes.steps)
        counts = engine.stats()["shared_spans"] or {}
    ms[way] = times.ms
    own = streams * sizes.tail
    seen = streams * sizes.problem + own
    floor = Floor.of(config, decoder.dtype, streams, sizes.groups * sizes.problem + own, seen)
    row = floor.beside(times.ms, setting.device)
    return {**row, "host_ms": times.host_ms, "tokens_per_s": 1e3 * streams / times.ms, **counts}


def _costs(sizes: _Sizes, model: ModelConfig, setting: Setting) -> Row:
    """The gain of one launch as the cost model has it, and as it was timed."""
    setting.free_memory()
    case, dtype = sizes.case, torch.bfloat16
    pages = int(sizes.kv_gib * 2**30) // page_bytes(model, dtype)
    cache = KVCache(model, pages, dtype, torch.device(setting.device))
    costs = measure_costs(model, cache)
    del cache
    setting.free_memory()
    pieces, own = -(-case.problem // case.split), case.siblings * -(-case.own // case.split)
    lanes = case.siblings * case.heads.query // case.heads.kv
    together = pieces * -(-lanes // costs.lanes) * costs.wide + own
    apart = pieces * (1 + (case.siblings - 1) * costs.again) + own
    times = [_launch_us(one, setting.device) for one in (case, replace(case, share=True))]
    return {
        "wide": costs.wide,
        "again": costs.again,
        "predicted_gain": apart / together,
        "apart_us": times[0],
        "together_us": times[1],
        "timed_gain": times[0] / times[1],
    }


def _launch_us(case: DecodeCase, device: str) -> float:
    arguments = DecodeWorld.of(case, device).arguments()
    us: float = time_decode(case, device, partial(csrc_triton.decode_attention, *arguments))["us"]
    return us
