"""How prefill's rows are cut into tiles, and a long context behind few rows into sections.

The tiles of a long chunk fill a GPU. Those of a short one behind a long context do not: there each
tile's tokens are cut into sections, which run side by side and leave partial results. What is cut
depends on the chunk and its context alone, not on the other chunks of the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

FILL = 264
"""Programs that fill a large GPU: two for each multiprocessor of an H100."""
LEAST = 512
"""Tokens that a section has at least: shorter ones cost more in merging than they save."""

Span = tuple[int, int, int, int]
"""(page_begin, start, stop, position), as in `PrefillPlan.spans`."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """What cuts rows into tiles: heads that attend together, kv heads, and lanes of a tile."""

    group: int
    kv_heads: int
    lanes: int


@dataclass(slots=True)
class Tiles:
    """The tiles of a plan; see `PrefillPlan`.

    Attributes:
        tiles: `(segment, tile, span_begin, span_end, own_begin, entry)`.
        spans: sections of spans, which lie behind those of the plan.
        ranges: `(begin, end)` of each row in [first_row, last_row); (-1, -1) if it merges nothing.
        ids: entries, one row's behind the other's.
        num_entries: of all partial results.
        first_row: of those that are merged.
        last_row: behind the last one that is merged.
    """

    tiles: list[tuple[int, ...]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    ranges: list[tuple[int, int]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    num_entries: int = 0
    first_row: int = 0
    last_row: int = 0

    @classmethod
    def cut(
        cls,
        tiling: Tiling,
        cu_seqlens: Sequence[int],
        own: Sequence[Sequence[int]],
        span_offsets: Sequence[int],
        spans: Sequence[Span],
    ) -> Tiles:
        """The tiles of all segments; the arguments are lists of `PrefillPlan`'s numbers."""
        made = cls()
        for segment, (page_begin, computed, position) in enumerate(own):
            begin, end = cu_seqlens[segment : segment + 2]
            tiles = -(-(end - begin) * tiling.group // tiling.lanes)
            first, last = span_offsets[segment : segment + 2]
            context = [*spans[first:last], (page_begin, 0, computed, position)]
            tokens = sum(stop - start for _, start, stop, _ in context)
            wanted = -(-FILL // (tiles * tiling.kv_heads))
            sections = min(wanted, tokens // LEAST)
            # The last rows see the most tokens, so they start first: programs end together.
            order = range(tiles - 1, -1, -1)
            if sections < 2:
                made.tiles += [(segment, tile, first, last, 0, -1) for tile in order]
                continue
            made._split(
                segment, order, range(begin, end), context, -(-tokens // sections), len(spans)
            )
        return made

    def _split(
        self,
        segment: int,
        order: Sequence[int],
        rows: range,
        context: Sequence[Span],
        size: int,
        known: int,
    ) -> None:
        """Add a segment whose tiles see sections of `size` tokens."""
        computed = context[-1][2]
        sections = list(_sections(context, size))
        for number, section in enumerate(sections):
            begin = known + len(self.spans)
            self.spans += section
            own_begin = computed if number == len(sections) - 1 else -1
            span = begin, begin + len(section), own_begin, self.num_entries + number * len(rows)
            self.tiles += [(segment, tile, *span) for tile in order]
        self._merge(rows, len(sections))

    def _merge(self, rows: range, sections: int) -> None:
        """Let rows merge one entry of each section."""
        if not self.ranges:
            self.first_row = rows.start
        # The results of rows between those of two such segments are in place already.
        self.ranges += [(-1, -1)] * (rows.start - self.first_row - len(self.ranges))
        for row in range(len(rows)):
            begin = len(self.ids)
            self.ids += [self.num_entries + k * len(rows) + row for k in range(sections)]
            self.ranges.append((begin, len(self.ids)))
        self.num_entries += sections * len(rows)
        self.last_row = rows.stop


def _sections(context: Sequence[Span], size: int) -> Iterator[list[Span]]:
    """The tokens of some spans, cut every `size` tokens."""
    section: list[Span] = []
    room = size
    for page_begin, start, stop, position in context:
        while start < stop:
            end = min(stop, start + room)
            section.append((page_begin, start, end, position))
            room -= end - start
            start = end
            if not room:
                yield section
                section, room = [], size
    if section:
        yield section
