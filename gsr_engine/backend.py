"""Puts together what runs the steps on a device: pages, attention, runner."""

from __future__ import annotations

import torch

from gsr_engine.config import EngineConfig
from gsr_engine.decode_work import room_to_grow
from gsr_engine.device import bytes_for_pages
from gsr_engine.graphs import DecodeGraphs
from gsr_engine.kv_cache import KVCache, pages_in
from gsr_engine.model import Decoder
from gsr_engine.paged_attention import PagedAttention
from gsr_engine.runner import Runner
from gsr_engine.sharing import Sharing
from gsr_engine.sharing_costs import measure_costs
from gsr_engine.torch_attention import TorchAttention

_CPU_BYTES = 1 << 30


def build_runner(decoder: Decoder, config: EngineConfig) -> tuple[Runner, int]:
    """The runner for a decoder, on its device, and the number of KV pages.

    Raises:
        OutOfMemory: a GPU has no room for pages.
    """
    cache = KVCache(decoder.config, _num_pages(decoder, config), decoder.dtype, decoder.device)
    if decoder.device.type == "cpu":
        attention = TorchAttention(decoder.config, cache, config.model_length(decoder.config))
        # Plain fp32 products give a row the same bits whatever the other rows are once every thread
        # has at least 4 of them; prepacked ones and bf16 do so at any size (measured, on 1 and 2
        # threads).
        plain = decoder.dtype == torch.float32 and not decoder.head.is_prepacked
        # Measured: 4 per thread do where there is no AVX-512, 16 where there is.
        multiple = max(16, 4 * torch.get_num_threads()) if plain else 1
        runner = Runner(
            decoder, attention, cache.padding_slot, config.max_num_seqs, row_multiple=multiple
        )
        return runner, cache.num_pages
    return paged_runner(decoder, config, cache, lag=1), cache.num_pages


def paged_runner(decoder: Decoder, config: EngineConfig, cache: KVCache, lag: int) -> Runner:
    """The runner of a GPU; on CPU tensors it does the same with the kernels' references."""
    model = decoder.config
    costs = measure_costs(model, cache) if config.share_spans else None
    sharing = Sharing(costs, model.num_heads, model.num_kv_heads)
    attention = PagedAttention(model, cache, config.model_length(model), sharing)
    graphs = None
    if config.cuda_graphs:
        room = cache.num_pages + room_to_grow(config.max_num_seqs)
        graphs = DecodeGraphs(decoder, attention, room)
    # Nothing is written for padding rows.
    return Runner(
        decoder, attention, -1, config.max_num_seqs, lag=lag, graphs=graphs, sharing=sharing
    )


def _num_pages(decoder: Decoder, config: EngineConfig) -> int:
    if config.kv_cache_gib is not None:
        num_bytes = int(config.kv_cache_gib * 2**30)
    elif decoder.device.type == "cpu":
        num_bytes = _CPU_BYTES
    else:
        num_bytes = bytes_for_pages(decoder, config)
    return pages_in(num_bytes, config, decoder.config, decoder.dtype)
