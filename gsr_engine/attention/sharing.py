"""A cost model for decode attention: decides which spans are read together.

A span that n streams see is read by one item of n rows, or by n items of one row each. Together,
its keys and values are read from memory once, but the tile is wider and takes longer. Apart, every
stream has its own program, and all but the first find what they read in the L2 cache. While the GPU
can run all these programs at once, reading together saves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from csrc_triton import PagedSpan, WorkList, decode_attention_partials
from csrc_triton.arrays import IntArray
from gsr_engine.attention.kv_cache import KVCache
from gsr_engine.attention.pieces import SPLIT
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.kv.segments import pages_for

BoolArray = npt.NDArray[np.bool_]
MOST_ROWS = 1 << 24
"""More than a step has."""
# Lanes of the narrowest tile of the decode kernel, and of the widest.
NARROW_LANES, WIDEST_LANES = 16, 64


@dataclass(frozen=True, slots=True)
class SharingCosts:
    """The constants of the cost model, measured at warm-up on a GPU.

    Attributes:
        concurrent_programs: programs that the GPU runs at the same time without delaying any.
        wide: time of an item that fills the widest tile, divided by the time of a one-row item,
            on a GPU that is full of such items over distinct pages.
        lanes: lanes of the widest tile.
        again: time of a one-row item whose pages its neighbour reads, too, divided by the time of
            one with pages of its own.
    """

    concurrent_programs: int = 0
    wide: float = 1.0
    lanes: int = WIDEST_LANES
    again: float = 1.0

    @classmethod
    def of(
        cls,
        concurrent_programs: int,
        lanes: int,
        rows: int,
        apart: float,
        again: float,
        wide: float,
    ) -> SharingCosts:
        """The constants from the times of `rows` rows over the tokens of an item.

        Args:
            concurrent_programs: see the attribute.
            lanes: see the attribute.
            rows: that fill the widest tile.
            apart: time of an item for each row, all with pages of their own.
            again: time of an item for each row, side by side and over the same pages.
            wide: time of one item for all of them.
        """
        one = apart / rows
        repeated = 1.0 if rows == 1 else (again / one - 1) / (rows - 1)
        return cls(concurrent_programs, max(1.0, wide / one), lanes, min(max(repeated, 0.0), 1.0))


class Sharing:
    """Chooses the spans to read together and counts them; without costs it never chooses any.

    Attributes:
        rows_per_item: the most rows that one item has; with more rows a span is several items.
    """

    def __init__(
        self,
        costs: SharingCosts | None,
        num_heads: int,
        num_kv_heads: int,
        rows_per_item: int = MOST_ROWS,
    ) -> None:
        self.rows_per_item = rows_per_item
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
        return (readers > 1) & (together < 1 + (readers - 1) * costs.again)

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
    """Time the work list's kernel: rows apart over distinct and over shared pages, and together.

    On a CPU the default comes unmeasured: nothing runs side by side for nothing, so every span that
    several streams see is read together.
    """
    costs = SharingCosts()
    device = cache.keys.device
    if device.type == "cpu":
        return costs
    concurrent_programs = torch.cuda.get_device_properties(device).multi_processor_count
    rows = max(1, costs.lanes * model.num_kv_heads // model.num_heads)
    groups = -(-concurrent_programs * _WAVES // model.num_kv_heads // rows)
    lists = timed_lists(rows, groups, cache.num_pages)
    apart, again, wide = (_elapsed_ms(model, cache, rows * groups, each) for each in lists)
    return SharingCosts.of(concurrent_programs, costs.lanes, rows, apart, again, wide / rows)


Reads = list[tuple[Sequence[int], PagedSpan]]
"""Rows and the span that they read together, as `WorkList.from_spans` takes them."""


def timed_lists(rows: int, groups: int, num_pages: int) -> tuple[Reads, Reads, Reads]:
    """What is timed: `rows * groups` rows apart over distinct pages; the same in groups over the
    same pages, side by side; and as many items, each of `rows` rows, over distinct pages.

    Each has `rows * groups` items, so programs fill the GPU alike.
    """
    size, count = pages_for(SPLIT), rows * groups

    def span(number: int) -> PagedSpan:
        pages = [(number * size + page) % num_pages for page in range(size)]
        return PagedSpan(pages, 0, SPLIT)

    apart: Reads = [([row], span(row)) for row in range(count)]
    again: Reads = [([row], span(row // rows)) for row in range(count)]
    wide: Reads = [
        (range(row % groups * rows, row % groups * rows + rows), span(row)) for row in range(count)
    ]
    return apart, again, wide


def _elapsed_ms(model: ModelConfig, cache: KVCache, rows: int, reads: Reads) -> float:
    """Milliseconds of `_REPEATS` launches of the work list's kernel, replayed as one graph.

    So neither the merging of partials nor Python's share of a launch is in it.
    """
    device, dtype = cache.keys.device, cache.keys.dtype
    work = WorkList.from_spans(reads, rows, SPLIT, device)
    q = torch.zeros((rows, model.num_heads, model.head_dim), dtype=dtype, device=device)
    step = q, cache.keys[0], cache.values[0], work, model.head_dim**-0.5
    decode_attention_partials(*step)  # a kernel is compiled before a capture
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize(device)
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):  # torch's may be on another
        for _ in range(_REPEATS):
            decode_attention_partials(*step)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
