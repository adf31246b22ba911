"""The inputs of the attention kernels: work lists over token spans of paged KV.

The vocabulary, shared by decode and prefill:

- A **page list** names the pages of one segment, first token first. All page lists lie one
  behind the other in a flat `page_table`; `page_begin` is where one begins. Token t of that
  segment lives in page `page_table[page_begin + t // page_size]`, at offset `t % page_size`.
- A **span** is a page list and a token range `[start, stop)` in it. It may start and end anywhere
  inside a page.
- A page list has a **position**: that of its token 0. Token t is at position + t. Only a window
  reads positions; see `decode_attention` and `prefill_attention` in `csrc_triton`.
- A **row** is a query token. Row r has `num_q_heads` query heads; the G = num_q_heads /
  num_kv_heads heads of one kv head always attend together.

Tensors may be longer than their contents (the fixed maxima of a CUDA graph). Only `num_items`,
the offsets and the ranges say which part is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from csrc_triton.arrays import IntArray
from csrc_triton.tiling import Part, Tiles, Tiling


class PagedSpan(NamedTuple):
    """Tokens start <= t < stop of a segment; `pages` are its pages from its token 0 on.

    `position` is that of the segment's token 0, not that of the span's first token.
    """

    pages: Sequence[int]
    start: int
    stop: int
    position: int = 0


@dataclass(frozen=True, eq=False)
class WorkList:
    """Decode attention as one list of items; every tensor is int32 and on q's device.

    An item lets some rows attend to one span, or to a piece of one. A span that n sequences share
    is one item with n rows, so its keys and values are read once. A private span is an item with
    one row. A long span is cut into several items until the GPU is full. An item stands for
    **all** kv heads (a launch has a program for each): every head is cut at the same tokens.

    The rows of all items lie one behind the other in `row_ids`. An index into that list is an
    **entry**. Partial results use the same index: entry e holds the attention of row `row_ids[e]`
    over its item.

    Attributes:
        items: [max_items, 6], each
            `(entry_begin, entry_end, page_begin, kv_begin, kv_end, position)`.
            The token offsets kv_begin <= t < kv_end count from the page list's first token, which
            is at `position`. kv_begin = kv_end is allowed and contributes nothing.
        num_items: [1], the number of items; the rest of `items` is not read.
        row_ids: [max_entries], the row of each entry.
        page_table: [max_pages], all page lists.
        partial_ranges: [num_rows, 2], each `(begin, end)`: a row merges the entries
            `partial_ids[begin:end]`, in this order. A row without entries (padding) gets zeros.
        partial_ids: the entries of all rows; between two rows there may be room.
        max_rows_per_item: upper bound of the rows of an item. It shapes the launch, so it must be
            the same for all lists that one captured graph will see.
    """

    items: Tensor
    num_items: Tensor
    row_ids: Tensor
    page_table: Tensor
    partial_ranges: Tensor
    partial_ids: Tensor
    max_rows_per_item: int

    @property
    def num_rows(self) -> int:
        """The number of rows that q must have."""
        return self.partial_ranges.shape[0]

    @classmethod
    def from_spans(
        cls,
        spans: Sequence[tuple[Sequence[int], PagedSpan]],
        num_rows: int,
        split: int,
        device: torch.device | str = "cpu",
    ) -> WorkList:
        """Build a list of exact size from `(rows, span)` pairs.

        A span is cut every `split` tokens, counted from its own start. So the cuts, and hence the
        last bit of a row's result, do not depend on the rest of the batch. Each row merges its
        partials in the order of `spans`. An empty span makes no item.

        Raises:
            ValueError: split < 1, a negative start, or a row outside [0, num_rows).
        """
        if split < 1:
            raise ValueError(f"split must be at least 1, got {split}")
        items: list[tuple[int, int, int, int, int, int]] = []
        row_ids: list[int] = []
        page_table: list[int] = []
        row_partials: list[list[int]] = [[] for _ in range(num_rows)]
        for rows, span in spans:
            if span.start < 0 or not all(0 <= row < num_rows for row in rows):
                raise ValueError(f"rows {list(rows)} of {num_rows}, span start {span.start}")
            page_begin = len(page_table)
            page_table.extend(span.pages)
            for begin in range(span.start, span.stop, split):
                entry = len(row_ids)
                end = min(begin + split, span.stop)
                items.append((entry, entry + len(rows), page_begin, begin, end, span.position))
                row_ids.extend(rows)
                for partial, row in enumerate(rows, start=entry):
                    row_partials[row].append(partial)
        offsets = _offsets([len(partials) for partials in row_partials])
        return cls(
            items=_int32(items, device).view(-1, 6),
            num_items=_int32([len(items)], device),
            row_ids=_int32(row_ids, device),
            page_table=_int32(page_table, device),
            partial_ranges=_int32([*pairwise(offsets)], device).view(-1, 2),
            partial_ids=_int32([p for partials in row_partials for p in partials], device),
            max_rows_per_item=max((len(rows) for rows, _ in spans), default=1),
        )


@dataclass(frozen=True, eq=False)
class PrefillPlan:
    """Prefill attention over the chunks of several segments; every tensor is int32.

    Attributes:
        cu_seqlens_q: [num_segments + 1], segment s has the rows
            `q[cu_seqlens_q[s] : cu_seqlens_q[s + 1]]`, at least one; together they are all of q.
        own: [num_segments, 3], each `(page_begin, computed, position)`: the segment's own page
            list, the number of its tokens before this chunk, and the position of its token 0.
            Row i of the chunk is the segment's token computed + i, at position + computed + i, and
            sees the segment's tokens 0 .. computed + i.
        span_offsets: [num_segments + 1], the context of segment s is
            `spans[span_offsets[s] : span_offsets[s + 1]]`; its rows see all of it.
        spans: [num_spans, 4], each `(page_begin, start, stop, position)`; the position is that of
            the page list's token 0.
        page_table: [max_pages], all page lists.
        tiles: of the device's kernel, if the plan was made for one; see `tiled`.
    """

    cu_seqlens_q: Tensor
    own: Tensor
    span_offsets: Tensor
    spans: Tensor
    page_table: Tensor
    tiles: PlanTiles | None = None

    @classmethod
    def from_segments(
        cls,
        segments: Sequence[tuple[PagedSpan, Sequence[PagedSpan]]],
        device: torch.device | str = "cpu",
        tiling: Tiling | None = None,
    ) -> PrefillPlan:
        """Build a plan from `(chunk, context)` pairs; with a tiling the tiles move in one copy.

        `chunk` is the span of the segment's own tokens that are q's rows. It starts where the
        segment's computed tokens end.

        Raises:
            ValueError: a chunk without a token (it would be an empty step) or a negative start.
        """
        page_table: list[int] = []
        own: list[tuple[int, int, int]] = []
        spans: list[tuple[int, int, int, int]] = []
        for chunk, context in segments:
            if not 0 <= chunk.start < chunk.stop:
                raise ValueError(f"a chunk needs tokens, got [{chunk.start}, {chunk.stop})")
            own.append((len(page_table), chunk.start, chunk.position))
            page_table.extend(chunk.pages)
            for span in context:
                spans.append((len(page_table), span.start, span.stop, span.position))
                page_table.extend(span.pages)
        cu_seqlens = _offsets([chunk.stop - chunk.start for chunk, _ in segments])
        span_offsets = _offsets([len(context) for _, context in segments])
        numbers = [_array(cu_seqlens), _array(own, 3), _array(span_offsets), _array(spans, 4)]
        cut = None if tiling is None else Tiles.cut(tiling, *numbers)
        if cut is not None:
            numbers[3] = np.concatenate((numbers[3], cut.spans))
        lists = [] if cut is None else [cut.tiles, cut.ranges, cut.ids]
        cu_seqlens_q, owned, offsets, contexts, pages, *tiles = moved_together(
            *numbers, _array(page_table), *lists, device=device
        )
        made = None if tiling is None or cut is None else PlanTiles.of(tiling, cut, contexts, tiles)
        return cls(cu_seqlens_q, owned, offsets, contexts, pages, made)

    def tiled(self, tiling: Tiling) -> PlanTiles:
        """The tiles for a kernel: those of the plan, if they are cut like this.

        Otherwise they are made now, which waits for a GPU.
        """
        if self.tiles is not None and self.tiles.tiling == tiling:
            return self.tiles
        plan = self.cu_seqlens_q, self.own, self.span_offsets, self.spans
        cu_seqlens, own, offsets, spans = (one.cpu().numpy().astype(np.int64) for one in plan)
        spans = spans[: offsets[-1]]
        cut = Tiles.cut(tiling, cu_seqlens, own, offsets, spans)
        lists = np.concatenate((spans, cut.spans)), cut.tiles, cut.ranges, cut.ids
        contexts, *tiles = moved_together(*lists, device=self.own.device)
        return PlanTiles.of(tiling, cut, contexts, tiles)


@dataclass(frozen=True, eq=False)
class PlanTiles:
    """The tiles of a `PrefillPlan`: a program for each, and for each kv head. Tensors are int32.

    Attributes:
        tiling: what cut them.
        tiles: [num_tiles, 6], each `(segment, tile, span_begin, span_end, own_begin, entry)`: lanes
            `tile * lanes` and so on of a segment's rows see `spans[span_begin:span_end]`, and then
            their own segment from token `own_begin` on, or nothing of it if that is -1. With an
            entry of -1 that is all that the rows see. Otherwise it is a section of it, and the
            partial result of the segment's row i has the entry `entry + i`.
        spans: [num_spans, 4], those of the plan, and sections of them behind.
        partial_ranges: [rows, 2]; each of the rows that a part names merges the entries
            `partial_ids[begin:end]`. One with a begin of -1 has its result already.
        partial_ids: entries of all rows; each part counts its own from 0.
        parts: a launch for each. The memory of its partial results is free for the next one.
    """

    tiling: Tiling
    tiles: Tensor
    spans: Tensor
    partial_ranges: Tensor
    partial_ids: Tensor
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, tiling: Tiling, cut: Tiles, spans: Tensor, lists: Sequence[Tensor]) -> PlanTiles:
        """Tiles whose spans and other lists (`tiles`, `ranges`, `ids`) are on the device."""
        tiles, ranges, ids = lists
        return cls(tiling, tiles, spans, ranges, ids, cut.parts)


def _array(values: Sequence[object], width: int | None = None) -> IntArray:
    array = np.array(values, dtype=np.int64)
    return array if width is None else array.reshape(-1, width)


def aligned(length: int) -> int:
    """The least multiple of 16 bytes, in int32 numbers, that holds so many of them."""
    return -(-length // 4) * 4


def moved_together(*arrays: IntArray, device: torch.device | str) -> list[Tensor]:
    """Arrays as int32 tensors: views of one vector, so that one copy moves all.

    Each begins at a multiple of 16 bytes. The copy to a GPU does not wait for its work.
    """
    begins = [0, *accumulate(aligned(one.size) for one in arrays)]
    vector = np.zeros(begins[-1], dtype=np.int32)
    for begin, one in zip(begins, arrays, strict=False):
        vector[begin : begin + one.size] = one.reshape(-1)
    host = torch.from_numpy(vector)
    if torch.device(device).type == "cuda":
        host = host.pin_memory()
    there = host.to(device, non_blocking=True)
    return [
        there[begin : begin + one.size].view(one.shape)
        for begin, one in zip(begins, arrays, strict=False)
    ]


def _int32(values: Sequence[object], device: torch.device | str) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def _offsets(counts: Sequence[int]) -> list[int]:
    offsets = [0]
    for count in counts:
        offsets.append(offsets[-1] + count)
    return offsets
