"""A cost model for decode attention: decides which spans are read together.

A span that n streams see is read by one item of n rows, or by n items of one row each. Together,
its keys and values are read from memory once, but the tile is wider and takes longer. Apart, every
stream has its own program. While the GPU can run all these programs at once, reading together saves
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from csrc_triton import PagedSpan, WorkList, decode_attention
from gsr_engine.attention.arrays import IntArray
from gsr_engine.attention.kv_cache import KVCache
from gsr_engine.attention.pieces import SPLIT
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.kv.segments import pages_for

BoolArray = npt.NDArray[np.bool_]
# Lanes of the narrowest tile of the decode kernel.
NARROW_LANES = 16


@dataclass(frozen=True, slots=True)
class SharingCosts:
    """The constants of the cost model, measured at warm-up on a GPU.

    Attributes:
        concurrent_programs: programs that the GPU runs at the same time without delaying any.
        wide: time of an item that fills the widest tile, divided by the time of a one-row item,
            on a GPU that is full of such items.
        lanes: lanes of the widest tile.
    """

    concurrent_programs: int = 0
    wide: float = 1.0
    lanes: int = 64


class Sharing:
    """Chooses the spans to read together and counts them; without costs it never chooses any."""

    def __init__(self, costs: SharingCosts | None, num_heads: int, num_kv_heads: int) -> None:
        self._costs = costs
        self._group = num_heads // num_kv_heads
        self._kv_heads = num_kv_heads
        self.reset()

    def reset(self) -> None:
        """Count from nothing again."""
        self._counts = {"spans_shared": 0, "spans_apart": 0, "tokens_saved": 0}

    def choose(self, readers: IntArray, pieces: IntArray, own_pieces: int) -> BoolArray:
        """For each span, whether its readers read it together.

        Args:
            readers: [spans], how many streams see each.
            pieces: [spans], how many items each is cut into.
            own_pieces: pieces of the streams' own tokens, which no two streams see.
        """
        costs = self._costs
        apart = own_pieces + int((readers * pieces).sum())
        if costs is None or apart * self._kv_heads <= costs.concurrent_programs:
            return np.zeros(len(readers), dtype=bool)
        # The cost of one item with all readers, relative to an item of one row.
        lanes = readers * self._group
        together = -(-lanes // costs.lanes) * np.where(lanes > NARROW_LANES, costs.wide, 1.0)
        return (readers > 1) & (together < readers)

    def count(self, shared: int, apart: int, tokens_saved: int) -> None:
        """Count the spans of one step that several streams see, and the tokens not read again."""
        self._counts["spans_shared"] += shared
        self._counts["spans_apart"] += apart
        self._counts["tokens_saved"] += tokens_saved

    def as_dict(self) -> dict[str, Any]:
        """Counters since the start: spans summed over steps, and KV tokens not read again."""
        return dict(self._counts)


_WAVES = 8
"""Programs to time per concurrent program: enough that the tail of the last wave is small."""
_REPEATS = 10


def measure_costs(model: ModelConfig, cache: KVCache) -> SharingCosts:
    """Time items of one row and items of a full tile.

    On a CPU the default comes unmeasured: nothing runs side by side for nothing, so every span that
    several streams see is read together.
    """
    costs = SharingCosts()
    device = cache.keys.device
    if device.type == "cpu":
        return costs
    concurrent_programs = torch.cuda.get_device_properties(device).multi_processor_count
    rows = max(1, costs.lanes * model.num_kv_heads // model.num_heads)
    narrow = _elapsed_ms(model, cache, 1, concurrent_programs * _WAVES)
    wide = _elapsed_ms(model, cache, rows, concurrent_programs * _WAVES)
    return SharingCosts(concurrent_programs, max(1.0, wide / narrow), costs.lanes)


def _elapsed_ms(model: ModelConfig, cache: KVCache, rows: int, programs: int) -> float:
    """Milliseconds of `_REPEATS` calls of attention over items of `rows` rows.

    `programs` is the number of programs of one call.
    """
    device, dtype = cache.keys.device, cache.keys.dtype
    keys, values = cache.keys[0], cache.values[0]
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
