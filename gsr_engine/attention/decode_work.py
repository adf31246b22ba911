"""The work list of decoding streams, updated from step to step on the host.

From one step to the next each stream reads some tokens more, and nothing else changes. So the list
is laid out only when the streams change, or the lengths of their drafts, with room for future
tokens. In all other steps only the ends of the streams' own items move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from csrc_triton import WorkList
from csrc_triton.worklist import aligned
from gsr_engine.attention.sharing import SPLIT, Sharing
from gsr_engine.kv.segments import PAGE_SIZE, Context, Segment
from gsr_engine.step.plan import Chunk
from gsr_engine.step.transfer import to_device

IntArray = npt.NDArray[np.integer[Any]]
# Numbers of an item; see `csrc_triton.WorkList`.
ITEM_SIZE = 6
# A row merges its partials in the order of their ranks: span index in the context * _SPAN_RANK +
# piece. The row's own tokens rank as index _OWN, behind all spans of its context.
_SPAN_RANK = 1 << 32
_OWN = 1 << 24


def packed_size(num_rows: int, num_entries: int) -> int:
    """Length of a packed list without its page table; see `HostWork.packed`."""
    return sum(_sections(num_rows, num_entries))


def room_to_grow(num_rows: int) -> int:
    """Upper bound of the page-table entries that are reserved for pages of future tokens."""
    return num_rows * 2 * SPLIT // PAGE_SIZE


@dataclass(frozen=True, slots=True)
class HostWork:
    """A work list in host memory; see `csrc_triton.WorkList`. All arrays are int32."""

    items: IntArray
    row_ids: IntArray
    partial_offsets: IntArray
    partial_ids: IntArray
    page_table: IntArray
    max_rows_per_item: int

    @property
    def num_rows(self) -> int:
        """The number of rows, one per token that a stream decodes."""
        return len(self.partial_offsets) - 1

    def packed(self, num_rows: int, num_entries: int) -> IntArray:
        """All arrays as one vector, padded to these sizes; `unpacked` is the inverse."""
        sizes = _sections(num_rows, num_entries)
        vector = np.zeros(sum(sizes) + len(self.page_table), dtype=np.int32)
        count, items, row_ids, partial_ids, offsets, page_table = np.split(vector, np.cumsum(sizes))
        count[0] = len(self.items)
        items[: self.items.size] = self.items.reshape(-1)
        row_ids[: len(self.row_ids)] = self.row_ids
        partial_ids[: len(self.partial_ids)] = self.partial_ids
        offsets[:] = self.partial_offsets[-1]
        offsets[: len(self.partial_offsets)] = self.partial_offsets
        page_table[:] = self.page_table
        return vector

    def on(self, device: torch.device) -> WorkList:
        """The same list on a device, without padding."""
        rows, entries = self.num_rows, len(self.row_ids)
        vector = to_device(self.packed(rows, entries), device)
        return unpacked(vector, rows, entries, self.max_rows_per_item)


def unpacked(
    vector: torch.Tensor, num_rows: int, num_entries: int, max_rows_per_item: int
) -> WorkList:
    """A work list whose tensors are views of a packed int32 vector.

    The page table comes last and takes the rest of the vector, so its length may vary.
    """
    sizes = _sections(num_rows, num_entries)
    count, items, row_ids, partial_ids, offsets, page_table = vector.split(
        [*sizes, len(vector) - sum(sizes)]
    )
    return WorkList(
        items=items[: ITEM_SIZE * num_entries].view(-1, ITEM_SIZE),
        num_items=count[:1],
        row_ids=row_ids[:num_entries],
        page_table=page_table,
        partial_offsets=offsets[: num_rows + 1],
        partial_ids=partial_ids[:num_entries],
        max_rows_per_item=max_rows_per_item,
    )


def _sections(num_rows: int, num_entries: int) -> list[int]:
    """Lengths of a packed list's sections but the page table; each begins at 16 bytes."""
    numbers = [1, ITEM_SIZE * num_entries, num_entries, num_entries, num_rows + 1]
    return [aligned(number) for number in numbers]


class DecodeWork:
    """Makes the work list of the decoding chunks of each step, one row per token."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._segments: list[Segment] = []
        self._stops = np.empty(0, dtype=np.int64)
        self._layout: _Layout | None = None

    def build(self, chunks: Sequence[Chunk]) -> HostWork:
        """The list for chunks in row order; the next call overwrites it.

        Each row of a draft is laid out like a stream that ends there.
        """
        segments = [chunk.segment for chunk in chunks]
        stops = np.array([chunk.stop for chunk in chunks], dtype=np.int64)
        if any(len(chunk) > 1 for chunk in chunks):
            rows = [(c.segment, stop) for c in chunks for stop in range(c.start + 1, c.stop + 1)]
            segments = [segment for segment, _ in rows]
            stops = np.array([stop for _, stop in rows], dtype=np.int64)
        layout = self._layout
        goes_on = segments == self._segments and bool((stops > self._stops).all())
        if layout is None or not goes_on or not layout.has_room(stops):
            layout = self._layout = _Layout(segments, stops, self._sharing)
        self._segments, self._stops = segments, stops
        layout.advance(stops)
        self._sharing.count(*layout.counts)
        return layout.work


class _Layout:
    """The list for a fixed set of streams, with room for future tokens."""

    def __init__(
        self, segments: list[Segment], stops: npt.NDArray[np.int64], sharing: Sharing
    ) -> None:
        self._segments = segments
        self._stops = stops
        self._pages: list[int] = []
        self._items: list[IntArray] = []
        self._entries: list[IntArray] = []  # [2, entries]: row, and its rank among the row's
        self._num_entries = 0
        # Pieces of each stream's own tokens: the full ones, the growing one, one to grow into.
        self._pieces = (stops - 1) // SPLIT + 2
        most = self._add_contexts(segments, sharing)
        self._add_own(segments)
        rows, ranks = np.concatenate(self._entries, axis=1)
        counts = np.bincount(rows, minlength=len(segments))
        self.work = HostWork(
            items=np.concatenate(self._items, dtype=np.int32),
            row_ids=rows.astype(np.int32),
            partial_offsets=np.concatenate([[0], counts.cumsum()], dtype=np.int32),
            partial_ids=np.lexsort((ranks, rows)).astype(np.int32),
            page_table=np.array(self._pages, dtype=np.int32),
            max_rows_per_item=most,
        )

    def has_room(self, stops: npt.NDArray[np.int64]) -> bool:
        """Whether the streams still fit into their pieces at these lengths."""
        return bool((stops <= self._pieces * SPLIT).all())

    def advance(self, stops: npt.NDArray[np.int64]) -> None:
        """Let every row see its own tokens up to here, which are not less than before."""
        newest, before = stops - 1, self._stops - 1
        # Column 4 of an item is kv_end; the item is the piece that holds the newest token.
        self.work.items[self._first_item + newest // SPLIT, 4] = stops
        for row in np.flatnonzero(newest // SPLIT > before // SPLIT).tolist():
            full = self._first_item[row] + before[row] // SPLIT
            self.work.items[full, 4] = self.work.items[full, 3] + SPLIT
        for row in np.flatnonzero(newest // PAGE_SIZE > before // PAGE_SIZE).tolist():
            new = slice(int(before[row]) // PAGE_SIZE + 1, int(newest[row]) // PAGE_SIZE + 1)
            pages = self._segments[row].pages[new]
            at = self._first_page[row] + new.start
            self.work.page_table[at : at + len(pages)] = pages
        self._stops = stops

    def _add_contexts(self, segments: list[Segment], sharing: Sharing) -> int:
        """Add the spans of all contexts, each once; returns the most rows that an item has."""
        readers = _readers(segments)
        rows = [np.concatenate([one for _, one in by]) for by in readers.values()]
        counts = [len(each) for each in rows]
        pieces = [-(-(stop - start) // SPLIT) for _, start, stop in readers]
        # Each stream's last own piece is still empty, so it is no work yet.
        choice = sharing.choose(counts, pieces, int(self._pieces.sum()) - len(segments))
        first_page: dict[Segment, int] = {}
        saved = 0
        for (segment, start, stop), by, mine, together in zip(
            readers, readers.values(), rows, choice, strict=True
        ):
            if segment not in first_page:  # several spans of one segment share its page list
                first_page[segment] = len(self._pages)
                self._pages += segment.pages
            # Different streams may have the same span at different indices of their contexts.
            span_indices = np.concatenate([np.full(len(one), span_index) for span_index, one in by])
            span = first_page[segment], start, stop, segment.position
            self._add_span(mine, span_indices, span, together)
            saved += together * (stop - start) * (len(mine) - 1)
        several = sum(count > 1 for count in counts)
        self.counts = sum(choice), several - sum(choice), saved
        return max((n for n, together in zip(counts, choice, strict=True) if together), default=1)

    def _add_span(
        self,
        rows: IntArray,
        span_indices: IntArray,
        span: tuple[int, int, int, int],
        together: bool,
    ) -> None:
        """Add the items of one span: of all rows, or of one row each.

        The span is (first page, start, stop, position of the segment).
        """
        first_page, start, stop, position = span
        begins = np.arange(start, stop, SPLIT)
        # `count` items of `size` rows each. Pieces vary slowest, rows fastest, in both cases.
        count, size = (len(begins), len(rows)) if together else (len(begins) * len(rows), 1)
        entry = self._num_entries + np.arange(count) * size
        per_piece = count // max(1, len(begins))
        begin = np.repeat(begins, per_piece)
        end = np.minimum(begin + SPLIT, stop)
        table, places = np.full(count, first_page), np.full(count, position)
        self._items.append(np.stack([entry, entry + size, table, begin, end, places], axis=1))
        piece = np.repeat(np.arange(len(begins)), len(rows))
        ranks = np.tile(span_indices, len(begins)) * _SPAN_RANK + piece
        self._entries.append(np.stack([np.tile(rows, len(begins)), ranks]))
        self._num_entries += count * size

    def _add_own(self, segments: list[Segment]) -> None:
        """Add the streams' own tokens, one item per piece; `advance` fills the last two pieces."""
        pieces = self._pieces
        count = int(pieces.sum())
        before = pieces.cumsum() - pieces
        rows = np.repeat(np.arange(len(segments)), pieces)
        piece = np.arange(count) - before[rows]
        self._first_item = sum(map(len, self._items)) + before
        # Rows of one draft share the page list of their segment; the last row is the longest.
        reserved = dict(zip(segments, (pieces * (SPLIT // PAGE_SIZE)).tolist(), strict=True))
        first_page: dict[Segment, int] = {}
        for segment, num_pages in reserved.items():
            first_page[segment] = len(self._pages)
            self._pages += segment.pages + [0] * (num_pages - len(segment.pages))
        self._first_page = np.array([first_page[segment] for segment in segments])
        begin = piece * SPLIT
        end = begin.copy()
        done = piece < pieces[rows] - 2
        end[done] += SPLIT
        entry = self._num_entries + np.arange(count)
        table = self._first_page[rows]
        places = np.array([segment.position for segment in segments])[rows]
        self._items.append(np.stack([entry, entry + 1, table, begin, end, places], axis=1))
        self._entries.append(np.stack([rows, _OWN * _SPAN_RANK + piece]))
        self._num_entries += count


def _readers(
    segments: list[Segment],
) -> dict[tuple[Segment, int, int], list[tuple[int, IntArray]]]:
    """For each span that streams see: (its index in their context, their rows).

    Siblings share one context object, so each context is walked once for all of them.
    """
    siblings: dict[int, tuple[Context, list[int]]] = {}
    for row, segment in enumerate(segments):
        siblings.setdefault(id(segment.context), (segment.context, []))[1].append(row)
    readers: dict[tuple[Segment, int, int], list[tuple[int, IntArray]]] = {}
    for context, members in siblings.values():
        rows = np.array(members)
        for span_index, span in enumerate(context):
            if len(span):
                key = (span.segment, span.start, span.stop)
                readers.setdefault(key, []).append((span_index, rows))
    return readers
