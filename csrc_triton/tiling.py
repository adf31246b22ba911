"""How prefill's rows are cut into tiles, and a long context behind few rows into sections.

The tiles of a long chunk fill a GPU. Those of a short one behind a long context do not: there each
tile's tokens are cut into sections, which run side by side and leave partial results. What is cut
depends on the chunk and its context alone, not on the other chunks of the step. How much memory
the partial results take at once does not depend on the step at all; see `Part`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from csrc_triton.arrays import IntArray, begins_of, run_indices

FILL = 132
"""Programs that fill an H100: its multiprocessors hold one of each prefill tile."""
LEAST = 512
"""Tokens that a section has at least: shorter ones cost more in merging than they save."""
AT_ONCE = 32 * FILL
"""Programs of one launch that leave partial results, those of its last chunk not counted."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """What cuts rows into tiles: heads that attend together, kv heads, and lanes of a tile."""

    group: int
    kv_heads: int
    lanes: int

    @property
    def most_entries(self) -> int:
        """Upper bound of the partial results of a launch, whatever the step.

        A program leaves at most one for each `group` of its lanes. The programs of a chunk are at
        most `FILL`.
        """
        return (AT_ONCE + FILL) * self.lanes // (self.group * self.kv_heads)


@dataclass(frozen=True, slots=True)
class Part:
    """Tiles that one launch computes. All launches of a plan use the same memory for partials.

    Attributes:
        tiles: of all tiles.
        rows: of all rows; those that merge partial results are among them.
        ranges: of all ranges, those of `rows`.
        num_entries: partial results that the tiles leave.
    """

    tiles: slice
    rows: slice
    ranges: slice
    num_entries: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles of a plan on the host; see `PlanTiles`.

    Attributes:
        tiles: [num_tiles, 6].
        spans: [num_spans, 4], sections of spans, which lie behind those of the plan.
        ranges: [rows, 2].
        ids: entries of all rows.
        parts: one or more; the whole of `tiles`.
    """

    tiles: IntArray
    spans: IntArray
    ranges: IntArray
    ids: IntArray
    parts: tuple[Part, ...]

    @classmethod
    def cut(
        cls,
        tiling: Tiling,
        cu_seqlens: IntArray,
        own: IntArray,
        span_offsets: IntArray,
        spans: IntArray,
    ) -> Tiles:
        """The tiles of all segments; the arguments are `PrefillPlan`'s numbers."""
        counts = -(-np.diff(cu_seqlens) * tiling.group // tiling.lanes)
        through = np.append(0, (spans[:, 2] - spans[:, 1]).cumsum())
        tokens = np.diff(through[span_offsets]) + own[:, 1]
        # No second wave of programs: it would take as long as the first.
        wanted = np.minimum(FILL // (counts * tiling.kv_heads), tokens // LEAST)
        whole, cut = (wanted < 2).nonzero()[0], (wanted >= 2).nonzero()[0]
        known = np.stack((span_offsets[:-1], span_offsets[1:], 0 * counts, 0 * counts - 1), axis=1)
        tiles = _tiles(whole, counts[whole], known[whole])
        if not len(cut):
            nothing = slice(0, 0)
            none = np.empty(0, dtype=np.int64)
            only = Part(slice(0, len(tiles)), nothing, nothing, 0)
            return cls(tiles, none.reshape(0, 4), none.reshape(0, 2), none, (only,))
        sections = _Sections.of(cut, wanted[cut], tokens[cut], own, span_offsets, spans)
        merging = _Merging.of(cu_seqlens, cut, sections.counts, counts[cut] * tiling.kv_heads)
        begins = merging.bases[sections.chunks] + sections.numbers * merging.rows[sections.chunks]
        facts = np.stack((*(sections.spans + len(spans)), sections.own_begins, begins), axis=1)
        of_chunk = counts[cut]
        more = _tiles(cut[sections.chunks], of_chunk[sections.chunks], facts)
        parts = merging.parts(len(tiles), of_chunk * sections.counts)
        return cls(
            np.concatenate((tiles, more)), sections.pieces, merging.ranges, merging.ids, parts
        )


def _tiles(segments: IntArray, counts: IntArray, facts: IntArray) -> IntArray:
    """The numbers of some tiles: `counts` of a segment, and what all tiles of the segment share."""
    of = np.arange(len(segments)).repeat(counts)
    # The last rows see the most tokens, so they start first: programs end together.
    tile = counts[of] - 1 - run_indices(np.zeros_like(counts), counts)
    tiles = np.empty((len(of), 6), dtype=np.int64)
    tiles[:, 0], tiles[:, 1], tiles[:, 2:] = segments[of], tile, facts[of]
    return tiles


@dataclass(frozen=True, slots=True)
class _Sections:
    """The contexts of some chunks, cut. A chunk's own computed tokens are the end of its context.

    Attributes:
        counts: [chunks], sections of each.
        chunks: [sections], the chunk of each.
        numbers: [sections], its place among those of its chunk.
        spans: [2, sections], where its pieces begin and end.
        own_begins: [sections], the chunk's computed tokens in its last section, else -1.
        pieces: [pieces, 4], cut from spans.
    """

    counts: IntArray
    chunks: IntArray
    numbers: IntArray
    spans: IntArray
    own_begins: IntArray
    pieces: IntArray

    @classmethod
    def of(
        cls,
        cut: IntArray,
        wanted: IntArray,
        tokens: IntArray,
        own: IntArray,
        span_offsets: IntArray,
        spans: IntArray,
    ) -> _Sections:
        """Cut the contexts of the segments `cut`, of `tokens` tokens, into `wanted` sections."""
        num_spans = np.diff(span_offsets)[cut]
        context = np.zeros((int(num_spans.sum()) + len(cut), 4), dtype=np.int64)
        others, ends = np.ones(len(context), dtype=bool), (num_spans + 1).cumsum()
        others[ends - 1] = False
        context[others] = spans[run_indices(span_offsets[cut], num_spans)]
        context[ends - 1, 0], context[ends - 1, 2:] = own[cut, 0], own[cut, 1:]
        # Tokens of all contexts are numbered through. A piece begins where a span or section does.
        lengths = context[:, 2] - context[:, 1]
        begins = begins_of(lengths)
        sizes = -(-tokens // wanted)
        counts = -(-tokens // sizes)
        chunks = np.arange(len(cut)).repeat(counts)
        numbers = run_indices(np.zeros_like(counts), counts)
        section_begins = begins_of(tokens)[chunks] + numbers * sizes[chunks]
        piece_begins = np.union1d(begins[lengths > 0], section_begins)
        of = (begins + lengths).searchsorted(piece_begins, side="right")
        pieces = context[of]
        pieces[:, 1] += piece_begins - begins[of]
        pieces[:, 2] = pieces[:, 1] + np.diff(piece_begins, append=lengths.sum())
        firsts = piece_begins.searchsorted(section_begins)
        last = numbers == counts[chunks] - 1
        own_begins = np.where(last, own[cut, 1][chunks], -1)
        pieces_of = np.stack((firsts, np.append(firsts[1:], len(pieces))))
        return cls(counts, chunks, numbers, pieces_of, own_begins, pieces)


@dataclass(frozen=True, slots=True)
class _Merging:
    """How rows of chunks whose contexts are cut merge an entry of each section.

    Attributes:
        begins: [chunks], the first row of each.
        rows: [chunks], how many rows each has.
        entries: [chunks], how many entries each has.
        bases: [chunks], the first entry of each among those of its part.
        part: [chunks], the number of its part.
        ranges: [rows, 2], of the first chunk's rows, the last one's, and all in between.
        ids: entries of all rows.
    """

    begins: IntArray
    rows: IntArray
    entries: IntArray
    bases: IntArray
    part: IntArray
    ranges: IntArray
    ids: IntArray

    @classmethod
    def of(
        cls, cu_seqlens: IntArray, cut: IntArray, sections: IntArray, programs: IntArray
    ) -> _Merging:
        """The rows of the segments `cut`, each with some sections of so many programs."""
        begins, rows = cu_seqlens[cut], np.diff(cu_seqlens)[cut]
        entries = rows * sections
        part = begins_of(programs * sections) // AT_ONCE
        bases = begins_of(entries)
        bases -= bases[part.searchsorted(part)]
        chunk = np.arange(len(cut)).repeat(rows)
        row = run_indices(np.zeros_like(rows), rows)
        merged = sections[chunk]
        step = run_indices(np.zeros_like(merged), merged)
        ids = (bases[chunk] + row).repeat(merged) + step * rows[chunk].repeat(merged)
        # The results of rows between those of two such chunks are in place already.
        ranges = np.full((begins[-1] + rows[-1] - begins[0], 2), -1)
        ranges[begins[chunk] + row - begins[0], 0] = begins_of(merged)
        ranges[begins[chunk] + row - begins[0], 1] = merged.cumsum()
        return cls(begins, rows, entries, bases, part, ranges, ids)

    def parts(self, before: int, tiles: IntArray) -> tuple[Part, ...]:
        """The parts of a plan: `before` tiles of other chunks, then so many of each of these."""
        found, chunk, done = [], 0, 0
        for end in [*np.flatnonzero(np.diff(self.part)) + 1, len(tiles)]:
            through = before + int(tiles[:end].sum())
            first, last = int(self.begins[chunk]), int(self.begins[end - 1] + self.rows[end - 1])
            ranges = slice(first - int(self.begins[0]), last - int(self.begins[0]))
            entries = int(self.entries[chunk:end].sum())
            found.append(Part(slice(done, through), slice(first, last), ranges, entries))
            chunk, done = end, through
        return tuple(found)
