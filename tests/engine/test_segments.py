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


class History:
    """A pool, the segments that own pages, and the contexts that were acquired."""

    def __init__(self, num_pages: int) -> None:
        self.pool = PagePool(num_pages)
        self.owned: list[Segment] = []
        self.contexts: list[Context] = []

    def new(self, number: int) -> None:
        self.owned.append(Segment([0] * (number % 70)))

    def grow(self, number: int) -> None:
        segment = self.owned[number % len(self.owned)]
        before = list(segment.pages)
        wanted = len(segment) + number % 40
        try:
            self.pool.grow(segment, wanted)
            segment.token_ids = [0] * wanted
        except OutOfPages:
            assert pages_for(wanted) - len(before) > self.pool.num_free
            assert segment.pages == before

    def share(self, number: int) -> None:
        segment = self.owned[number % len(self.owned)]
        room = len(segment.pages) * PAGE_SIZE
        start, stop = sorted((number % (room + 1), number // 7 % (room + 1)))
        if start < stop:
            context = (Span(segment, start, stop),)
            self.pool.acquire(context)
            self.contexts.append(context)

    def release(self, number: int) -> None:
        if self.contexts:
            self.pool.release(self.contexts.pop(number % len(self.contexts)))

    def free(self, number: int) -> None:
        self.pool.free(self.owned.pop(number % len(self.owned)))


@given(operations=OPERATIONS, num_pages=st.integers(1, 40))
@settings(deadline=None, max_examples=200)
def test_any_history_conserves_pages(operations: list[tuple[str, int]], num_pages: int) -> None:
    history = History(num_pages)
    for operation, number in operations:
        if history.owned or operation in ("new", "release"):
            getattr(history, operation)(number)
        history.pool.check(history.owned, history.contexts)
    for context in history.contexts:
        history.pool.release(context)
    for segment in history.owned:
        history.pool.free(segment)
    history.pool.check([], [])
    assert history.pool.num_free == num_pages


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
