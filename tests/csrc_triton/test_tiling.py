"""How prefill is cut: a chunk as if it were alone, and into launches of bounded memory."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csrc_triton import tiling
from csrc_triton.tiling import Part, Tiles, Tiling

Chunk = tuple[int, int, list[int]]
"""Rows, computed tokens of its own, and the lengths of the spans that it sees."""
Span = tuple[int, int, int]
"""(page list, start, stop); the lists of a chunk are numbered from 0, its own, on."""
chunks = st.tuples(
    st.integers(1, 60), st.integers(0, 3000), st.lists(st.integers(0, 3000), max_size=4)
)
tilings = st.sampled_from([Tiling(7, 4, 128), Tiling(4, 8, 128), Tiling(1, 1, 16)])
prove = settings(deadline=None, derandomize=True, max_examples=60)


def spans_of(step: list[Chunk]) -> list[tuple[int, int, int, int]]:
    """The spans of a plan; the page lists of chunk c begin at 10 c."""
    return [
        (10 * number + place, 3, 3 + length, 0)
        for number, (_, _, lengths) in enumerate(step)
        for place, length in enumerate(lengths, start=1)
    ]


def cut(how: Tiling, step: list[Chunk]) -> Tiles:
    rows = np.cumsum([0, *(rows for rows, _, _ in step)])
    offsets = np.cumsum([0, *(len(spans) for _, _, spans in step)])
    own = np.array([(10 * number, computed, 0) for number, (_, computed, _) in enumerate(step)])
    spans = np.array(spans_of(step), dtype=np.int64).reshape(-1, 4)
    return Tiles.cut(how, rows, own, offsets, spans)


def programs(step: list[Chunk], tiles: Tiles, chunk: int) -> list[tuple[int, list[Span], int]]:
    """Of a chunk: each tile, the spans that it sees, and from which own token on."""
    spans = [*spans_of(step), *tiles.spans.tolist()]
    return [
        (
            tile,
            [(page - 10 * chunk, start, stop) for page, start, stop, _ in spans[first:last]],
            own,
        )
        for of, tile, first, last, own, _ in tiles.tiles.tolist()
        if of == chunk
    ]


@prove
@given(how=tilings, step=st.lists(chunks, min_size=1, max_size=12))
def test_a_chunk_is_cut_as_if_it_were_alone(how: Tiling, step: list[Chunk]) -> None:
    tiles = cut(how, step)
    for number, one in enumerate(step):
        assert programs(step, tiles, number) == programs([one], cut(how, [one]), 0)


@prove
@given(how=tilings, chunk=chunks)
def test_each_tile_sees_the_whole_context_once(how: Tiling, chunk: Chunk) -> None:
    rows, computed, lengths = chunk
    seen: dict[int, list[Span]] = {}
    begins: dict[int, list[int]] = {}
    for tile, spans, own in programs([chunk], cut(how, [chunk]), 0):
        seen.setdefault(tile, []).extend(spans)
        begins.setdefault(tile, []).append(own)
    assert sorted(seen) == list(range(-(-rows * how.group // how.lanes)))
    context = [(place, 3, 3 + length) for place, length in enumerate(lengths, start=1) if length]
    for tile, spans in seen.items():
        *sections, last = begins[tile]
        assert last in (0, computed)  # from there on the tile walks the chunk's own tokens
        assert set(sections) <= {-1}
        assert joined(spans) == context + [(0, 0, last)] * (last > 0)


def joined(spans: list[Span]) -> list[Span]:
    """The same tokens in as few spans as may be."""
    found: list[Span] = []
    for page, start, stop in spans:
        if found and found[-1][0] == page and found[-1][2] == start:
            found[-1] = page, found[-1][1], stop
        elif start < stop:
            found.append((page, start, stop))
    return found


@prove
@given(how=tilings, step=st.lists(chunks, min_size=1, max_size=40), at_once=st.integers(132, 1000))
def test_rows_merge_each_section_once_within_bounded_memory(
    how: Tiling, step: list[Chunk], at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "AT_ONCE", at_once)
        tiles, bound = cut(how, step), how.most_entries
    rows = np.cumsum([0, *(rows for rows, _, _ in step)]).tolist()
    every = range(len(tiles.tiles))
    assert [*chain.from_iterable(every[part.tiles] for part in tiles.parts)] == list(every)
    for part in tiles.parts:
        assert part.num_entries <= bound
        left: dict[int, set[int]] = {}
        for of, _, _, _, _, entry in tiles.tiles[part.tiles].tolist():
            for row in range(rows[of], rows[of + 1]) if entry >= 0 else ():
                left.setdefault(row, set()).add(entry + row - rows[of])
        merged = merged_by(tiles, part)
        assert merged == {row: sorted(entries) for row, entries in left.items()}
        assert sorted(chain.from_iterable(merged.values())) == list(range(part.num_entries))


def merged_by(tiles: Tiles, part: Part) -> dict[int, list[int]]:
    """The entries that each row of a part merges."""
    rows, ranges = range(part.rows.start, part.rows.stop), tiles.ranges[part.ranges].tolist()
    return {
        row: tiles.ids[begin:end].tolist()
        for row, (begin, end) in zip(rows, ranges, strict=True)
        if begin >= 0
    }


def test_many_short_chunks_behind_long_contexts_take_little_memory() -> None:
    """256 chunks of 32 rows behind 17,000 tokens: all partials together would take 2 GiB."""
    how, entry_bytes = Tiling(4, 8, 128), 32 * 129 * 4
    tiles = cut(how, [(32, 0, [17000])] * 256)
    assert sum(part.num_entries for part in tiles.parts) * entry_bytes > 2 << 30
    assert max(part.num_entries for part in tiles.parts) <= how.most_entries
    assert how.most_entries * entry_bytes < 300 << 20
