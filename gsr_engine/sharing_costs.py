"""The constants of the cost model of shared spans, measured on the chip."""

from __future__ import annotations

import torch

from csrc_triton import PagedSpan, WorkList, decode_attention
from gsr_engine.config import ModelConfig
from gsr_engine.decode_work import SPLIT
from gsr_engine.kv_cache import KVCache
from gsr_engine.segments import pages_for
from gsr_engine.sharing import SharingCosts

_WAVES = 8
"""Items for each place of the chip: enough that the last ones to end do not matter."""
_REPEATS = 10


def measure_costs(model: ModelConfig, cache: KVCache) -> SharingCosts:
    """Time items of one row and items of a whole tile of rows; on a CPU nothing is measured."""
    costs = SharingCosts()
    device = cache.pages.device
    if device.type == "cpu":
        return costs
    places = torch.cuda.get_device_properties(device).multi_processor_count
    rows = max(1, costs.lanes * model.num_kv_heads // model.num_heads)
    narrow = _seconds(model, cache, 1, places * _WAVES)
    wide = _seconds(model, cache, rows, places * _WAVES)
    return SharingCosts(places, max(1.0, wide / narrow), costs.lanes)


def _seconds(model: ModelConfig, cache: KVCache, rows: int, programs: int) -> float:
    """Milliseconds of attention over items of so many rows each, with as many programs in all."""
    device, dtype = cache.pages.device, cache.pages.dtype
    keys, values = cache.pages[0]
    size = pages_for(SPLIT)
    spans = []
    for item in range(-(-programs // model.num_kv_heads)):
        pages = [(item * size + page) % cache.num_pages for page in range(size)]
        spans.append((range(rows), PagedSpan(pages, 0, SPLIT)))
    work = WorkList.from_spans(spans, rows, SPLIT, device)
    q = torch.zeros((rows, model.num_heads, model.head_dim), dtype=dtype, device=device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for repeat in range(-2, _REPEATS):
        if repeat == 0:
            start.record()
        decode_attention(q, keys, values, work, model.head_dim**-0.5)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
