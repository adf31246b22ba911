"""In every step each row's items show exactly the tokens that its segment sees, in order."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gsr_engine.attention.decode_work import DecodeWork
from gsr_engine.attention.flat_lists import table_room
from gsr_engine.attention.host_work import HostWork, unpacked
from gsr_engine.attention.pieces import SPLIT
from gsr_engine.attention.readers import room_to_grow
from gsr_engine.attention.sharing import Sharing, SharingCosts
from gsr_engine.kv.page_pool import PagePool
from gsr_engine.kv.segments import PAGE_SIZE, Segment, Span
from gsr_engine.step.plan import Chunk

Places = list[tuple[int, int, int]]
"""(page, offset, position) of some tokens."""


def places(segment: Segment, start: int, stop: int) -> Places:
    return [
        (segment.pages[t // PAGE_SIZE], t % PAGE_SIZE, segment.position + t)
        for t in range(start, stop)
    ]


def seen(work: HostWork, row: int) -> Places:
    """The tokens that a row's items read, in the order in which they are merged."""
    owner = {}
    for entry_begin, entry_end, page_begin, begin, end, position in work.items.tolist():
        for entry in range(entry_begin, entry_end):
            owner[entry] = (page_begin, begin, end, position)
    shown: Places = []
    for entry in work.partial_ids[slice(*work.partial_ranges[row])]:
        assert work.row_ids[entry] == row
        page_begin, begin, end, position = owner[int(entry)]
        assert end - begin <= 2 * SPLIT  # pieces of streams beyond 4,096 tokens are longer
        table = work.page_table[page_begin:]
        shown += [
            (int(table[t // PAGE_SIZE]), t % PAGE_SIZE, position + t) for t in range(begin, end)
        ]
    return shown


@st.composite
def families(draw: st.DrawFn) -> tuple[PagePool, list[Segment]]:
    """Streams that continue a few problems; some problems share a prefix."""
    pool = PagePool(4000)
    lengths = st.one_of(st.integers(1, 40), st.integers(SPLIT - 2, SPLIT + 2))
    segments = []
    beginning = Segment([0] * draw(lengths))
    pool.grow(beginning, len(beginning))
    for _ in range(draw(st.integers(1, 3))):
        problem = Segment([0] * draw(lengths), position=draw(st.integers(0, 99)))
        pool.grow(problem, len(problem))
        first = draw(st.integers(0, len(problem)))
        context = (Span(beginning, 0, draw(st.integers(0, len(beginning)))),) * draw(
            st.integers(0, 1)
        )
        context += (Span(problem, first, len(problem)),)
        for _ in range(draw(st.integers(1, 4))):
            position = draw(st.integers(0, 99))
            segments.append(Segment([0] * draw(lengths), position, context))
    return pool, segments


@given(
    family=families(),
    steps=st.lists(st.sampled_from(["go on", "end one", "return"]), min_size=1, max_size=8),
    jump=st.integers(1, 3 * SPLIT),
    drafted=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    costs=st.sampled_from(
        [None, SharingCosts(), SharingCosts(concurrent_programs=20, wide=2.5, lanes=16)]
    ),
    most_rows=st.integers(1, 5) | st.just(100),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_every_row_sees_its_context(
    family: tuple[PagePool, list[Segment]],
    steps: list[str],
    jump: int,
    drafted: list[int],
    costs: SharingCosts | None,
    most_rows: int,
) -> None:
    pool, segments = family
    lists = DecodeWork(Sharing(costs, num_heads=4, num_kv_heads=2, rows_per_item=most_rows))
    living = list(segments)
    for step in steps:
        if step == "end one" and len(living) > 1:
            living.pop(0)
        elif step == "return":
            living = list(segments)
        for _ in range(jump if step == "go on" else 1):
            chunks = []
            for segment, draft in zip(living, cycle(drafted)):
                segment.token_ids.append(0)
                start, stop = len(segment) - 1, len(segment) + draft
                pool.grow(segment, stop)
                chunks.append(Chunk(None, segment, start, stop, decode=True))  # type: ignore[arg-type]
            work = lists.build(chunks)
        rows = [(c.segment, stop) for c in chunks for stop in range(c.start + 1, c.stop + 1)]
        assert work.num_rows == len(rows)
        items = [range(begin, end) for begin, end in work.items[:, :2].tolist()]
        assert all(0 < len(item) <= most_rows for item in items)
        assert sorted(e for item in items for e in item) == [*range(len(work.row_ids))]
        assert max(work.items[:, 1] - work.items[:, 0]) <= work.max_rows_per_item <= most_rows
        for row, (segment, stop) in enumerate(rows):
            expected: Places = []
            for span in segment.context:
                expected += places(span.segment, span.start, span.stop)
            assert seen(work, row) == expected + places(segment, 0, stop)
        spans = {span.segment for segment in living for span in segment.context}
        held = sum(len(segment.pages) for segment in {*spans, *living})
        assert len(work.page_table) <= table_room(held + room_to_grow(len(living)))


def cuts(work: HostWork, row: int) -> list[tuple[int, int]]:
    """(begin, end) of the pieces that a row reads, in the order in which they are merged."""
    owner = {entry: item for item in work.items.tolist() for entry in range(item[0], item[1])}
    entries = work.partial_ids[slice(*work.partial_ranges[row])].tolist()
    return [(owner[entry][3], owner[entry][4]) for entry in entries]


def test_long_spans_have_longer_pieces_whatever_else_is_read() -> None:
    """A stream grows beyond 4,096 tokens of its own, behind a problem of 16,384."""
    problem = Segment([0] * 16384)
    stream, sibling = (Segment([0] * 4090, 0, (Span(problem, 0, 16384),)) for _ in range(2))
    other = Segment([0] * 300)
    pool = PagePool(4000)
    for segment in (problem, stream, sibling, other):
        pool.grow(segment, len(segment) + 20)
    alone = DecodeWork(Sharing(None, num_heads=4, num_kv_heads=2))
    beside = DecodeWork(Sharing(SharingCosts(), num_heads=4, num_kv_heads=2))
    for step in range(12):
        stop = 4090 + step
        chunk = Chunk(None, stream, stop - 1, stop, decode=True)  # type: ignore[arg-type]
        third = Chunk(None, other, 299 + step, 300 + step, decode=True)  # type: ignore[arg-type]
        twin = Chunk(None, sibling, 4080 + step, 4081 + step, decode=True)  # type: ignore[arg-type]
        size = 256 if stop < 4096 else 512
        expected = [(begin, begin + 1024) for begin in range(0, 16384, 1024)]
        expected += [(begin, min(begin + size, stop)) for begin in range(0, stop, size)]
        assert cuts(alone.build([chunk]), 0) == expected
        assert cuts(beside.build([third, chunk, twin][step % 2 :]), 1 - step % 2) == expected


def test_packing_pads_with_nothing() -> None:
    work = HostWork(
        items=np.array([[0, 2, 0, 3, 9, 40], [2, 3, 1, 0, 5, 12]]),
        row_ids=np.array([0, 1, 1]),
        partial_ranges=np.array([[0, 1], [2, 4]]),
        partial_ids=np.array([0, 0, 1, 2]),
        page_table=np.array([7, 8, 9]),
        max_rows_per_item=2,
    )
    found = unpacked(torch.from_numpy(work.packed(4, 8)), 4, 8, 2)
    assert found.num_items.tolist() == [2]
    assert found.items[:2].tolist() == work.items.tolist()
    assert found.row_ids[:3].tolist() == [0, 1, 1]
    assert found.partial_ranges.tolist() == [[0, 1], [2, 4], [0, 0], [0, 0]]
    assert found.partial_ids[:4].tolist() == [0, 0, 1, 2]
    assert found.page_table.tolist() == [7, 8, 9]


def test_pages_that_were_evicted_and_computed_again_are_read_where_they_are_now() -> None:
    """One stream goes on to read a problem's first page; the second page comes and goes."""
    pool = PagePool(10)
    problem, elsewhere = Segment([0] * 30), Segment([0])
    early, late = (Segment([], 0, (Span(problem, 0, stop),)) for stop in (16, 30))
    pool.grow(problem, 30)
    pool.hold(problem, 16)  # the early stream's
    problem.computed = 30
    lists = DecodeWork(Sharing(None, num_heads=4, num_kv_heads=2))

    def work_of(*streams: Segment) -> HostWork:
        chunks = []
        for stream in streams:
            stream.token_ids.append(0)
            pool.grow(stream, len(stream))
            chunks.append(Chunk(None, stream, len(stream) - 1, len(stream), decode=True))  # type: ignore[arg-type]
        return lists.build(chunks)

    work_of(early)
    before = list(problem.pages)
    pool.drop(problem, 30)
    pool.grow(elsewhere, 1)
    pool.hold(problem, 30)
    problem.computed = 30
    assert before[0] == problem.pages[0]
    assert before[1] != problem.pages[1]
    work = work_of(early, late)
    assert seen(work, 0) == places(problem, 0, 16) + places(early, 0, len(early))
    assert seen(work, 1) == places(problem, 0, 30) + places(late, 0, len(late))
    assert seen(work_of(early), 0)[16:] == places(early, 0, len(early))
    work = work_of(late)  # both lists of the problem's pages are gone
    assert seen(work, 0) == places(problem, 0, 30) + places(late, 0, len(late))


def test_a_prompt_that_is_computed_again_at_once_is_read_where_it_is_now() -> None:
    """A preempted request may be admitted before a step without it: its context moves, too."""
    problem = Segment([0] * 40)
    streams = [Segment([0] * 20, context=(Span(problem, 0, 40),)) for _ in range(2)]
    pool = PagePool(30)
    lists = DecodeWork(Sharing(SharingCosts(), num_heads=4, num_kv_heads=2))
    for segment in (problem, *streams):
        pool.grow(segment, len(segment))
    lists.build([Chunk(None, one, 19, 20, decode=True) for one in streams])  # type: ignore[arg-type]
    for segment in (problem, *streams):
        segment.pages = [page + 10 for page in segment.pages]
    chunks = [Chunk(None, one, 0, 20, decode=False) for one in streams]  # type: ignore[arg-type]
    for _ in range(2):
        work = lists.build(chunks)
        for row in range(work.num_rows):
            segment, stop = streams[row // 20], row % 20 + 1
            assert seen(work, row) == places(problem, 0, 40) + places(segment, 0, stop)
