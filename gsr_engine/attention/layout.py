"""A work list laid out for some streams, by operations on whole arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from csrc_triton.arrays import IntArray, begins_of, run_indices
from gsr_engine.attention.host_work import ITEM_SIZE, HostWork
from gsr_engine.attention.pieces import piece_sizes
from gsr_engine.attention.readers import Readers, Reads
from gsr_engine.attention.sharing import BoolArray, Sharing
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
        self._counts, self._stops = counts, stops
        stream = np.arange(len(counts)).repeat(counts)  # of each row
        self._lists, self._own = readers.lists, reads.own[stream]
        self._positions = reads.positions[stream]
        self._sizes, longest = piece_sizes(stops)
        pieces = -(-stops // self._sizes)
        self._limits = np.minimum((pieces + 1) * self._sizes, longest)
        np.minimum(self._limits, self._lists.rooms[self._own] * PAGE_SIZE, out=self._limits)

        columns = readers.spans.columns
        pairs = _Pairs.of(reads, stream, columns[5])
        filled = pairs.pieces + pieces
        begins = begins_of(filled + 1)
        self._ranges = np.empty((len(stops), 2), dtype=np.int32)
        self._ranges[:, 0], self._ranges[:, 1] = begins, begins + filled
        contexts = _Contexts(pairs, columns, self._lists.begins, sharing, int(pieces.sum()))
        self.counts, self._most_rows = contexts.counts, contexts.most_rows

        num_items, num_entries = contexts.items.shape[1], len(contexts.rows)
        rows = np.arange(len(stops)).repeat(pieces)
        piece = run_indices(np.zeros_like(pieces), pieces)
        room = len(rows) + len(stops)
        self._items = np.empty((ITEM_SIZE, num_items + room), dtype=np.int32)
        self._row_ids = np.empty(num_entries + room, dtype=np.int32)
        self._partial_ids = np.zeros(num_entries + room, dtype=np.int32)
        self._items[:, :num_items] = contexts.items
        self._row_ids[:num_entries] = contexts.rows
        places = begins[contexts.rows] + contexts.ordinals
        self._partial_ids[places] = np.arange(num_entries)
        self._num_items, self._num_entries = num_items, num_entries
        self._append(rows, piece, begins[rows] + pairs.pieces[rows] + piece)
        self._growing = num_items + pieces.cumsum() - 1  # the item of each row's newest token

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
            old, first = self._growing[grown], self._num_items
            self._items[4, old] = self._items[3, old] + sizes[grown]
            self._append(grown, (stops[grown] - 1) // sizes[grown], self._ranges[grown, 1])
            self._ranges[grown, 1] += 1
            self._growing[grown] = np.arange(first, self._num_items)
        self._items[4, self._growing] = stops

    def work(self) -> HostWork:
        """The list as it is now."""
        return HostWork(
            items=self._items[:, : self._num_items].T,
            row_ids=self._row_ids[: self._num_entries],
            partial_ranges=self._ranges,
            partial_ids=self._partial_ids,
            page_table=self._lists.table,
            max_rows_per_item=self._most_rows,
        )

    def _append(self, rows: IntArray, pieces: IntArray, places: IntArray) -> None:
        """Append items of one row each: pieces of the rows' own tokens, and where they merge."""
        items = self._items[:, self._num_items : self._num_items + len(rows)]
        entries = np.arange(self._num_entries, self._num_entries + len(rows))
        begins, sizes = pieces * self._sizes[rows], self._sizes[rows]
        items[0], items[1], items[2] = entries, entries + 1, self._lists.begins[self._own[rows]]
        items[3], items[4] = begins, np.minimum(begins + sizes, self._stops[rows])
        items[5] = self._positions[rows]
        self._row_ids[self._num_entries : self._num_entries + len(rows)] = rows
        self._partial_ids[places] = entries
        self._num_items += len(rows)
        self._num_entries += len(rows)


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
        through = np.zeros(len(spans) + 1, dtype=np.int64)
        pieces[spans].cumsum(out=through[1:])
        ends = counts.cumsum()
        begins = through[ends - counts]
        return cls(
            rows=np.arange(len(stream)).repeat(counts),
            spans=spans,
            before=through[:-1] - begins.repeat(counts),
            pieces=through[ends] - begins,
        )


class _Contexts:
    """The items of all contexts: each span once for all its rows, or once for each.

    Attributes:
        items: [6, items].
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
        list_begins: IntArray,
        sharing: Sharing,
        own_pieces: int,
    ) -> None:
        readers = np.bincount(pairs.spans, minlength=1)
        numbers = readers.nonzero()[0]
        readers = readers[numbers]
        lists, starts, stops, positions, sizes, pieces = columns[:, numbers]
        together = sharing.choose(readers, pieces, own_pieces)
        self._count(readers, together, stops - starts)
        most = int(readers[together].max(initial=1))
        self.most_rows = min(most, sharing.rows_per_item)

        # Blocks: each piece of each span. Its entries are those of the span's rows, side by side.
        span = np.arange(len(numbers)).repeat(pieces)
        piece = run_indices(np.zeros_like(pieces), pieces)
        entries = readers[span]
        member = run_indices(begins_of(readers)[span], entries)
        pair = pairs.spans.argsort(kind="stable")[member]
        self.rows = pairs.rows[pair]
        self.ordinals = pairs.before[pair] + piece.repeat(entries)
        # A block is as few items of all its entries as may be, or an item for each.
        rows = np.where(together, np.minimum(readers, sharing.rows_per_item), 1)
        items = -(-readers // rows)[span]
        begin, ends = starts[span] + piece * sizes[span], entries.cumsum()
        shown = np.empty((5, len(span)), dtype=np.int64)
        shown[0], shown[1], shown[2] = rows[span], list_begins[lists][span], begin
        shown[3], shown[4] = np.minimum(begin + sizes[span], stops[span]), positions[span]
        self.items = np.empty((ITEM_SIZE, int(items.sum())), dtype=np.int64)
        self.items[1:] = shown.repeat(items, axis=1)
        number = run_indices(np.zeros_like(items), items)
        self.items[0] = (ends - entries).repeat(items) + number * self.items[1]
        np.minimum(self.items[0] + self.items[1], ends.repeat(items), out=self.items[1])

    def _count(self, readers: IntArray, together: BoolArray, tokens: IntArray) -> None:
        chosen = int(together.sum())
        saved = int((tokens * (readers - 1))[together].sum())
        self.counts = chosen, int((readers > 1).sum()) - chosen, saved
