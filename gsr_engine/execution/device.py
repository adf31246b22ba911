"""Sizes the KV pages to the memory of a device, and builds the runner for it."""

from __future__ import annotations

import torch

from gsr_engine.attention import partials
from gsr_engine.attention.flat_lists import table_room
from gsr_engine.attention.kv_cache import KVCache, pages_in
from gsr_engine.attention.paged_attention import PagedAttention
from gsr_engine.attention.readers import room_to_grow
from gsr_engine.attention.sharing import MOST_ROWS, WIDEST_LANES, Sharing, measure_costs
from gsr_engine.config import EngineConfig
from gsr_engine.errors import OutOfMemory
from gsr_engine.execution import gpu
from gsr_engine.execution.graphs import (
    SHORT,
    DecodeGraphs,
    bytes_for_graphs,
    ladder,
    shapes,
    short_room,
)
from gsr_engine.execution.host_memory import free_memory
from gsr_engine.execution.prompt_logprobs import SCORED_ROWS
from gsr_engine.execution.runner import Runner
from gsr_engine.execution.sampler import draw_anything
from gsr_engine.execution.step_costs import measure_step_costs
from gsr_engine.execution.warm_up import warm_up
from gsr_engine.model.decoder import Decoder

# For work lists and partial results of decode attention in steps that run eagerly. No limit of the
# engine bounds the latter (see `attention/partials.py`); of 28 heads of 128 dims 74,000 fit, 145
# for each of 512 rows. A step that needs more lacks memory: caches are freed, then the newest
# request is preempted.
_RESERVE = 1 << 30


def bytes_for_pages(decoder: Decoder, config: EngineConfig) -> int:
    """Bytes of the GPU that KV pages may take; runs the largest step once to measure it.

    Raises:
        OutOfMemory: weights and step leave no room for pages.
    """
    gpu.drop_caches()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    try:
        _largest_step(decoder, config)
    except torch.OutOfMemoryError:
        raise OutOfMemory(
            f"a step of max_batch_tokens {config.max_batch_tokens} does not fit beside the weights"
        ) from None
    step = torch.cuda.max_memory_allocated() - before
    graphs = _bytes_for_graphs(decoder, config, step) if config.cuda_graphs else 0
    free, total = gpu.free_memory()
    used, share = total - free, int(total * config.gpu_memory_utilization)
    room = share - used - step - graphs - _RESERVE
    if room <= 0:
        raise OutOfMemory(
            f"nothing is left for KV pages: of {_gib(share)} (gpu_memory_utilization "
            f"{config.gpu_memory_utilization}), {_gib(used)} are taken, the largest step needs "
            f"{_gib(step)} (lower max_batch_tokens), and {_gib(graphs + _RESERVE)} are kept for "
            "graphs and work lists"
        )
    return room


def _bytes_for_graphs(decoder: Decoder, config: EngineConfig, step: int) -> int:
    """A graph's rows take their share of what the largest step took."""
    most_rows = _graph_rows(config)
    of_rows = step * ladder(most_rows)[-1] // config.max_batch_tokens
    shape = decoder.config, decoder.dtype, most_rows, config.share_spans
    return bytes_for_graphs(*shape, of_rows)


def _graph_rows(config: EngineConfig) -> int:
    """The most rows of a step in a graph: every draw, and what is short."""
    return min(config.most_draws + SHORT, config.max_batch_tokens)


@torch.inference_mode()
def _largest_step(decoder: Decoder, config: EngineConfig) -> None:
    device = decoder.device
    token_ids = torch.zeros(config.max_batch_tokens, dtype=torch.int64, device=device)
    # A prompt may be scored at every row, but only so many logits exist at the same time.
    rows = torch.zeros_like(token_ids)
    hidden = decoder.hidden(token_ids, _AttentionMemory(decoder), rows)
    draw_anything(decoder.logits(hidden[: max(config.most_draws, SCORED_ROWS)]))


class _AttentionMemory:
    """A stand-in for attention that needs no KV pages, and takes as much memory besides."""

    def __init__(self, decoder: Decoder) -> None:
        self._num_heads = decoder.config.num_heads
        self._partial_bytes = partials.prefill_bytes(decoder.config, decoder.dtype, decoder.device)

    def forward(self, layer: int, qkv: torch.Tensor, *norms: torch.Tensor | None) -> torch.Tensor:
        """Values of the right shape without meaning: the queries."""
        rotated = qkv[:, : self._num_heads].contiguous()
        out = rotated.clone()
        torch.empty(self._partial_bytes, dtype=torch.uint8, device=qkv.device)
        return out


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


_CPU_SHARE = 0.5
"""Part of the free memory that KV pages may take on a CPU: others live there, too."""
_MOST_CPU_PAGES = 1 << 17
"""Two million tokens are more than a CPU is asked for; every page takes time of the bookkeeping."""


def build_runner(decoder: Decoder, config: EngineConfig) -> Runner:
    """The runner for a decoder, on its device, with its KV pages.

    A GPU computes one step while the host plans the next, and replays decode steps as graphs. On a
    CPU a launched step is a computed one.

    Raises:
        OutOfMemory: there is no room for pages, or for small steps beside them.
    """
    on_gpu = decoder.device.type != "cpu"
    try:
        return paged_runner(decoder, config, int(on_gpu), on_gpu and config.cuda_graphs)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            "KV pages leave no memory for the first small steps: lower "
            f"{'gpu_memory_utilization' if config.kv_cache_gib is None else 'kv_cache_gib'}"
        ) from error


def paged_runner(decoder: Decoder, config: EngineConfig, lag: int, use_graphs: bool) -> Runner:
    """As `build_runner`, with a lag (see `StepRunner`), with or without graphs, on any device.

    With either, kernels are compiled and graphs captured before it returns.
    """
    cache, model = _new_cache(decoder, config), decoder.config
    costs = measure_costs(model, cache) if config.share_spans else None
    most_rows = MOST_ROWS
    if lag or use_graphs:  # one tile holds all rows of an item, so graphs have few widths
        most_rows = max(1, WIDEST_LANES * model.num_kv_heads // model.num_heads)
    sharing = Sharing(costs, model.num_heads, model.num_kv_heads, most_rows)
    attention = PagedAttention(model, cache, config.model_length(model), sharing)
    # The kernels store nothing for padding rows, so no page is kept for them.
    runner = Runner(decoder, attention, cache, config.most_draws, lag=lag, sharing=sharing)
    every = shapes(model, _graph_rows(config), config.share_spans)
    widths = sorted({shape.rows_per_item for shape in every})
    if lag or use_graphs:
        warm_up(decoder, attention, widths, config)
    if use_graphs:
        live = cache.num_pages + room_to_grow(config.max_num_seqs) + short_room()
        runner.graphs = DecodeGraphs(
            decoder, attention, runner.last.tokens, every, table_room(live)
        )
    if config.speculation is not None:
        runner.costs = measure_step_costs(runner, config)
    return runner


def _new_cache(decoder: Decoder, config: EngineConfig) -> KVCache:
    return KVCache(decoder.config, _num_pages(decoder, config), decoder.dtype, decoder.device)


def _num_pages(decoder: Decoder, config: EngineConfig) -> int:
    if config.kv_cache_gib is not None:
        num_bytes = int(config.kv_cache_gib * 2**30)
    elif decoder.device.type == "cpu":
        half = pages_in(int(free_memory() * _CPU_SHARE), config, decoder.config, decoder.dtype)
        return min(half, _MOST_CPU_PAGES)
    else:
        num_bytes = bytes_for_pages(decoder, config)
    return pages_in(num_bytes, config, decoder.config, decoder.dtype)
