"""A work list laid out for some streams, by operations on whole arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gsr_engine.attention.arrays import IntArray, begins_of, run_indices
from gsr_engine.attention.host_work import ITEM_SIZE, HostWork
from gsr_engine.attention.pieces import longest_with_same_pieces, piece_sizes
from gsr_engine.attention.readers import Readers, Reads
from gsr_engine.attention.sharing import Sharing
from gsr_engine.kv.segments import PAGE_SIZE


class Layout:
    """The list for a fixed set of streams with drafts of fixed lengths.

    Each row may grow into one more piece: its item and its entry are appended then, and its partial
    has a place behind the row's others already.
    """

    def __init__(
        self, readers: Readers, reads: Reads, counts: IntArray, stops: IntArray, sharing: Sharing
    ) -> None:
        """Lay out streams with `counts` rows each; every row sees its own tokens up to its stop."""
        num_rows = len(stops)
        stream = np.repeat(np.arange(len(counts)), counts)  # of each row
        self._counts, self._stops = counts, stops
        self._lists, self._own = readers.lists, reads.own[stream]
        self._positions, self._sizes = reads.positions[stream], piece_sizes(stops)
        pieces = -(-stops // self._sizes)
        limits = np.minimum((pieces + 1) * self._sizes, longest_with_same_pieces(stops))
        self._limits = np.minimum(limits, self._lists.rooms[self._own] * PAGE_SIZE)

        columns = readers.spans.columns
        pairs = _Pairs.of(reads, stream, columns[:, 5])
        filled = pairs.pieces + pieces
        begins = begins_of(filled + 1)
        self._ranges = np.stack([begins, begins + filled], axis=1).astype(np.int32)
        shared = _SharedPart(pairs, columns, self._lists.begins, sharing, int(pieces.sum()))
        self.counts, self._most_rows = shared.counts, shared.most_rows

        own_row = np.repeat(np.arange(num_rows), pieces)
        own_piece = run_indices(np.zeros_like(pieces), pieces)
        self._num_entries = len(shared.rows) + len(own_row)
        self._num_items = len(shared.items) + len(own_row)
        self._items = np.empty((self._num_items + num_rows, ITEM_SIZE), dtype=np.int32)
        self._items[: len(shared.items)] = shared.items
        self._row_ids = np.empty(self._num_entries + num_rows, dtype=np.int32)
        self._row_ids[: len(shared.rows)] = shared.rows
        self._partial_ids = np.zeros(self._num_entries + num_rows, dtype=np.int32)
        places = begins[shared.rows] + shared.ordinals
        self._partial_ids[places] = np.arange(len(shared.rows))
        items, entries = (slice(n - len(own_row), n) for n in (self._num_items, self._num_entries))
        self._put_own(items, entries, own_row, own_piece)
        self._partial_ids[begins[own_row] + pairs.pieces[own_row] + own_piece] = np.arange(
            entries.start, entries.stop
        )
        self._growing = items.start + pieces.cumsum() - 1  # the item of each row's newest token

    def has_room(self, counts: IntArray, stops: IntArray) -> bool:
        """Whether rows that go on to these stops still fit in."""
        return (
            len(stops) == len(self._stops)
            and bool((counts == self._counts).all())
            and bool((stops > self._stops).all())
            and bool((stops <= self._limits).all())
        )

    def advance(self, stops: IntArray) -> None:
        """Let every row see its own tokens up to here."""
        sizes, before = self._sizes, self._stops
        self._stops = stops
        grown = ((stops - 1) // sizes > (before - 1) // sizes).nonzero()[0]
        if len(grown):
            old = self._growing[grown]
            self._items[old, 4] = self._items[old, 3] + sizes[grown]
            items = slice(self._num_items, self._num_items + len(grown))
            entries = slice(self._num_entries, self._num_entries + len(grown))
            self._put_own(items, entries, grown, (stops[grown] - 1) // sizes[grown])
            self._partial_ids[self._ranges[grown, 1]] = np.arange(entries.start, entries.stop)
            self._ranges[grown, 1] += 1
            self._growing[grown] = np.arange(items.start, items.stop)
            self._num_items, self._num_entries = items.stop, entries.stop
        self._items[self._growing, 4] = stops

    def work(self) -> HostWork:
        """The list as it is now."""
        return HostWork(
            items=self._items[: self._num_items],
            row_ids=self._row_ids[: self._num_entries],
            partial_ranges=self._ranges,
            partial_ids=self._partial_ids,
            page_table=self._lists.table,
            max_rows_per_item=self._most_rows,
        )

    def _put_own(self, items: slice, entries: slice, rows: IntArray, pieces: IntArray) -> None:
        """Fill in items of one row each: pieces of the rows' own tokens."""
        entry = np.arange(entries.start, entries.stop)
        begins, sizes = self._lists.begins[self._own[rows]], self._sizes[rows]
        stops = np.minimum((pieces + 1) * sizes, self._stops[rows])
        numbers = entry, entry + 1, begins, pieces * sizes, stops, self._positions[rows]
        self._items[items] = np.stack(numbers, axis=1)
        self._row_ids[entries] = rows


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Which row reads which span: one pair behind the other, row by row.

    Attributes:
        rows: [pairs].
        spans: [pairs], numbers of spans.
        before: [pairs], pieces of the row's earlier spans.
        pieces: [rows], pieces of the row's whole context.
    """

    rows: IntArray
    spans: IntArray
    before: IntArray
    pieces: IntArray

    @classmethod
    def of(cls, reads: Reads, stream: IntArray, pieces: IntArray) -> _Pairs:
        """The pairs of rows, given the stream of each row and the pieces of each span."""
        counts = reads.num_spans[stream]
        spans = reads.spans[run_indices(begins_of(reads.num_spans)[stream], counts)]
        through = np.concatenate([[0], pieces[spans].cumsum()])
        ends = counts.cumsum()
        begins = through[ends - counts]
        return cls(
            rows=np.repeat(np.arange(len(stream)), counts),
            spans=spans,
            before=through[:-1] - np.repeat(begins, counts),
            pieces=through[ends] - begins,
        )


class _SharedPart:
    """The items of all contexts: each span once for all its rows, or once for each.

    Attributes:
        items: [items, 6].
        rows: [entries], of each entry.
        ordinals: [entries], its place among the row's partials.
        counts: spans read together, spans that several rows read apart, tokens that are not read
            again.
        most_rows: that an item has.
    """

    def __init__(
        self,
        pairs: _Pairs,
        columns: IntArray,
        begins: IntArray,
        sharing: Sharing,
        own_pieces: int,
    ) -> None:
        order = pairs.spans.argsort(kind="stable")
        by_span = pairs.spans[order]
        first = np.diff(by_span, prepend=-1).nonzero()[0]
        readers = np.diff(first, append=len(by_span))
        lists, starts, stops, positions, sizes, pieces = columns[by_span[first]].T
        together = sharing.choose(readers, pieces, own_pieces)
        self._count(readers, together, stops - starts)

        # Blocks: each piece of each span. Its entries are those of the span's rows, side by side.
        span = np.repeat(np.arange(len(first)), pieces)
        piece = run_indices(np.zeros_like(pieces), pieces)
        entries = readers[span]
        member = order[run_indices(first[span], entries)]
        self.rows = pairs.rows[member]
        self.ordinals = pairs.before[member] + np.repeat(piece, entries)
        # A block is one item of all its entries, or an item for each.
        alone = ~together[span]
        items = np.where(alone, entries, 1)
        block = np.repeat(np.arange(len(span)), items)
        entry = run_indices(begins_of(entries), items)
        begin = starts[span] + piece * sizes[span]
        tokens = begins[lists[span]], begin, np.minimum(begin + sizes[span], stops[span])
        shown = np.stack([*tokens, positions[span]], axis=1)
        self.items = np.empty((len(block), ITEM_SIZE), dtype=np.int32)
        self.items[:, 0] = entry
        self.items[:, 1] = entry + np.where(alone, 1, entries)[block]
        self.items[:, 2:] = shown[block]

    def _count(self, readers: IntArray, together: IntArray, tokens: IntArray) -> None:
        chosen = int(together.sum())
        saved = int((tokens * (readers - 1))[together].sum())
        self.counts = chosen, int((readers > 1).sum()) - chosen, saved
        self.most_rows = int(readers[together].max(initial=1))
