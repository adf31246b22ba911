"""Pages are conserved and counted right, whatever is grown, shared and dropped."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsr_engine.errors import OutOfPages, PoolCorrupted
from gsr_engine.segments import PAGE_SIZE, Context, PagePool, Segment, Span, pages_for

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["new", "grow", "share", "release", "free"]), st.integers(0, 10**6)),
    max_size=60,
)


@given(operations=OPERATIONS, num_pages=st.integers(1, 40))
@settings(deadline=None, max_examples=200)
def test_any_history_conserves_pages(operations: list[tuple[str, int]], num_pages: int) -> None:
    pool = PagePool(num_pages)
    owned: list[Segment] = []
    contexts: list[Context] = []
    for operation, number in operations:
        if operation == "new":
            owned.append(Segment([0] * (number % 70)))
        elif operation == "grow" and owned:
            segment = owned[number % len(owned)]
            segment.token_ids += [0] * (number % 40)
            before = list(segment.pages)
            try:
                pool.grow(segment, len(segment))
            except OutOfPages:
                assert pages_for(len(segment)) - len(before) > pool.num_free
                assert segment.pages == before
                segment.token_ids = segment.token_ids[: len(before) * PAGE_SIZE]
        elif operation == "share" and owned:
            segment = owned[number % len(owned)]
            room = len(segment.pages) * PAGE_SIZE
            start, stop = sorted((number % (room + 1), number // 7 % (room + 1)))
            if start < stop:
                context = (Span(segment, start, stop),)
                pool.acquire(context)
                contexts.append(context)
        elif operation == "release" and contexts:
            pool.release(contexts.pop(number % len(contexts)))
        elif operation == "free" and owned:
            pool.free(owned.pop(number % len(owned)))
        pool.check(owned, contexts)
    for context in contexts:
        pool.release(context)
    for segment in owned:
        pool.free(segment)
    pool.check([], [])
    assert pool.num_free == num_pages


def test_a_freed_page_cannot_be_shared_or_freed_again() -> None:
    pool = PagePool(4)
    segment = Segment([0] * 20)
    pool.grow(segment, 20)
    shared = (Span(segment, 17, 20),)
    pool.acquire(shared)
    pool.free(segment)
    assert pool.num_used == 1  # the page that the span touches outlives its segment
    with pytest.raises(PoolCorrupted):
        pool.acquire((Span(segment, 0, 3),))
    pool.release(shared)
    with pytest.raises(PoolCorrupted):
        pool.release(shared)
    assert pool.num_used == 0


def test_the_check_finds_a_wrong_count() -> None:
    pool = PagePool(4)
    segment = Segment([0] * 5)
    pool.grow(segment, 5)
    with pytest.raises(PoolCorrupted, match="holders differ"):
        pool.check([], [])
    with pytest.raises(PoolCorrupted, match="holders differ"):
        pool.check([segment], [(Span(segment, 0, 5),)])
