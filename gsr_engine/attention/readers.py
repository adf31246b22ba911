"""What decoding streams read: the spans of their contexts, each known once, and their own tokens.

A stream that joins or leaves touches only what it reads itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from csrc_triton.arrays import IntArray, run_indices
from gsr_engine.attention.flat_lists import FlatLists
from gsr_engine.attention.pieces import SPLIT, piece_sizes
from gsr_engine.kv.segments import PAGE_SIZE, Segment, Span, pages_for

_ROOM = 2 * SPLIT // PAGE_SIZE
"""Pages that a stream's own list has room for beyond those that it needs."""


def room_to_grow(num_rows: int) -> int:
    """Upper bound of the page-table entries that are reserved for pages of future tokens."""
    return num_rows * _ROOM


class Spans:
    """The spans that streams see, by number, with the page lists of their segments.

    Attributes:
        columns: [6, numbers], of each `(page list, start, stop, position of token 0, tokens of a
            piece, pieces)`.
    """

    def __init__(self, lists: FlatLists) -> None:
        self.columns = np.zeros((6, 0), dtype=np.int64)
        self._lists = lists
        self._numbers: dict[tuple[Segment, int, int], int] = {}
        self._keys: list[tuple[Segment, int, int]] = []
        self._readers: list[int] = []
        self._free: list[int] = []
        self._list_of: dict[Segment, int] = {}
        self._spans_in: dict[int, int] = {}

    def add_reader(self, span: Span) -> int:
        """The number of a span that one more stream reads."""
        key = span.segment, span.start, span.stop
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self._add(key)
        self._readers[number] += 1
        return number

    def remove_reader(self, number: int) -> None:
        """One stream less reads a span; a span that nobody reads is forgotten."""
        self._readers[number] -= 1
        if self._readers[number]:
            return
        segment, _, _ = key = self._keys[number]
        del self._numbers[key]
        self._free.append(number)
        held = int(self.columns[0, number])
        self._spans_in[held] -= 1
        if not self._spans_in[held]:
            del self._spans_in[held]
            self._lists.remove(held)
            if self._list_of.get(segment) == held:  # a later one may have been here, and gone
                del self._list_of[segment]

    def _add(self, key: tuple[Segment, int, int]) -> int:
        if not self._free:
            known = len(self._keys)
            new = np.zeros((6, known + 8), dtype=np.int64)
            self.columns = np.concatenate([self.columns, new], axis=1)
            self._free.extend(range(known, 2 * known + 8))
            self._keys += [key] * (known + 8)
            self._readers += [0] * (known + 8)
        segment, start, stop = key
        number, size = self._free.pop(), int(piece_sizes(np.array(stop - start))[0])
        self._keys[number] = key
        held = self._list(segment, stop)
        self._spans_in[held] = self._spans_in.get(held, 0) + 1
        pieces = -(-(stop - start) // size)
        self.columns[:, number] = held, start, stop, segment.position, size, pieces
        return number

    def _list(self, segment: Segment, stop: int) -> int:
        """The page list of a segment that holds its first `stop` tokens.

        Pages behind the computed tokens may still be taken away, so no list has them. A list may
        have outlived the last reader of its last pages: they were freed then, and others are there
        now.
        """
        held = self._list_of.get(segment)
        needed = segment.pages[: pages_for(stop)]
        if held is None or self._lists.values(held)[: len(needed)] != needed:
            pages = segment.pages[: pages_for(max(stop, segment.computed))]
            held = self._list_of[segment] = self._lists.add(pages, len(pages))
        return held


@dataclass(frozen=True, slots=True)
class Reads:
    """What the streams of a step read, in their order.

    Attributes:
        own: [streams], the page lists of their own tokens.
        positions: [streams], those of their first own tokens.
        spans: the numbers of the spans of all contexts, one context behind the other.
        num_spans: [streams], how many each context has.
    """

    own: IntArray
    positions: IntArray
    spans: IntArray
    num_spans: IntArray


class Readers:
    """The streams that decode, from step to step."""

    def __init__(self) -> None:
        self.lists = FlatLists()
        self.spans = Spans(self.lists)
        # A stream has the number of its context, a list of spans.
        self._streams: dict[Segment, int] = {}
        self._contexts = FlatLists()
        self._facts = np.zeros((2, 0), dtype=np.int64)  # page list, and position of token 0

    def update(self, segments: list[Segment]) -> Reads:
        """Take these streams in place of those of the step before; both have many in common."""
        streams = self._streams
        known = list(map(streams.get, segments))
        if len(known) - known.count(None) < len(streams):
            for segment in streams.keys() - set(segments):
                self._remove(segment)
        for place, number in enumerate(known) if None in known else ():
            if number is None:
                known[place] = self._add(segments[place])
        self._contexts.compact()
        numbers = np.array(known)
        own, positions = self._facts[:, numbers]
        num_spans = self._contexts.lengths[numbers]
        places = run_indices(self._contexts.begins[numbers], num_spans)
        return Reads(own, positions, self._contexts.table[places], num_spans)

    def forget(self, segments: list[Segment]) -> bool:
        """Forget what these streams read; returns whether any of them was known."""
        known = [segment for segment in segments if segment in self._streams]
        for segment in known:
            self._remove(segment)
        return bool(known)

    def _add(self, segment: Segment) -> int:
        spans = [self.spans.add_reader(span) for span in segment.context if len(span)]
        number = self._streams[segment] = self._contexts.add(spans, len(spans))
        if number >= self._facts.shape[1]:
            new = np.zeros((2, number + 8), dtype=np.int64)
            self._facts = np.concatenate([self._facts, new], axis=1)
        pages = self.lists.add((), pages_for(len(segment)) + _ROOM)
        self._facts[:, number] = pages, segment.position
        return number

    def _remove(self, segment: Segment) -> None:
        number = self._streams.pop(segment)
        for span in self._contexts.values(number):
            self.spans.remove_reader(span)
        self._contexts.remove(number)
        self.lists.remove(int(self._facts[0, number]))

    def extend(
        self, segments: list[Segment], own: IntArray, starts: IntArray, stops: IntArray
    ) -> None:
        """Take the streams' new pages: each needs those of its tokens up to a stop.

        Tokens behind its start are not computed. If they were before, they were cut off, and their
        pages may be others now.
        """
        need = -(-stops // PAGE_SIZE)
        first = np.minimum(self.lists.lengths[own], -(-starts // PAGE_SIZE))
        for row in (first < need).nonzero()[0].tolist():
            begin, end = int(first[row]), int(need[row])
            self.lists.put(int(own[row]), begin, segments[row].pages[begin:end])

    def make_room(self, own: IntArray, stops: IntArray) -> None:
        """Let no stream run out of room within the next `SPLIT` tokens."""
        scarce = self.lists.rooms[own] * PAGE_SIZE < stops + SPLIT
        for row in scarce.nonzero()[0].tolist():
            self.lists.grow(int(own[row]), pages_for(int(stops[row])) + _ROOM)
        self.lists.compact()
