"""Pages are conserved and counted correctly while segments grow, are shared, cached, dropped."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsr_engine.errors import OutOfPages, PoolCorrupted
from gsr_engine.kv.page_pool import PagePool
from gsr_engine.kv.segments import (
    PAGE_SIZE,
    Context,
    Segment,
    Span,
    first_tokens,
    missing,
    pages_for,
)

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["new", "grow", "share", "release", "cache", "uncache", "free", "again"]),
        st.integers(0, 10**6),
    ),
    max_size=60,
)


class History:
    """A pool with its owners of segments, acquired contexts and cached spans."""

    def __init__(self, num_pages: int) -> None:
        self.pool = PagePool(num_pages)
        self.owned: list[Segment] = []
        self.left: list[Segment] = []
        self.contexts: list[Context] = []
        self.cached: list[Span] = []

    def new(self, number: int) -> None:
        self.owned.append(Segment([]))

    def grow(self, number: int) -> None:
        segment = self.owned[number % len(self.owned)]
        before = list(segment.pages)
        wanted = len(segment) + number % 70
        try:
            self.pool.grow(segment, wanted)
            segment.token_ids = [0] * wanted
            segment.computed = min(wanted, len(segment.pages) * PAGE_SIZE)
        except OutOfPages:
            assert pages_for(wanted) - len(before) > self.pool.num_free
            assert segment.pages == before

    def share(self, number: int) -> None:
        """Acquire any span of any segment; missing pages are added."""
        every = self.owned + self.left
        segment = every[number % len(every)]
        start, stop = sorted((number % (len(segment) + 1), number // 7 % (len(segment) + 1)))
        context = (Span(segment, start, stop),)
        try:
            self.pool.acquire(context)
            self.contexts.append(context)
        except OutOfPages:
            assert pages_for(stop) - len(segment.pages) > self.pool.num_free

    def release(self, number: int) -> None:
        if self.contexts:
            self.pool.release(self.contexts.pop(number % len(self.contexts)))

    def cache(self, number: int) -> None:
        segment = self.owned[number % len(self.owned)]
        span = Span(segment, 0, min(len(segment), len(segment.pages) * PAGE_SIZE))
        self.pool.cache(span)
        self.cached.append(span)

    def uncache(self, number: int) -> None:
        if self.cached:
            self.pool.uncache(self.cached.pop(number % len(self.cached)))

    def free(self, number: int) -> None:
        segment = self.owned.pop(number % len(self.owned))
        self.pool.drop(segment, len(segment.pages) * PAGE_SIZE)
        self.left.append(segment)
        assert segment.computed <= len(segment.pages) * PAGE_SIZE

    def again(self, number: int) -> None:
        if self.left:
            segment = self.left[number % len(self.left)]
            try:
                self.pool.hold(segment, len(segment))
            except OutOfPages:
                return
            self.left.remove(segment)
            self.owned.append(segment)

    def check(self) -> None:
        holds = [(segment, len(segment.pages) * PAGE_SIZE) for segment in self.owned]
        holds += [(span.segment, span.stop) for context in self.contexts for span in context]
        self.pool.check(holds, self.cached)


@given(operations=OPERATIONS, num_pages=st.integers(1, 40))
@settings(deadline=None, max_examples=200)
def test_any_history_conserves_pages(operations: list[tuple[str, int]], num_pages: int) -> None:
    history = History(num_pages)
    for operation, number in operations:
        if history.owned or operation in ("new", "release", "uncache", "again"):
            getattr(history, operation)(number)
        history.check()
    for context in history.contexts:
        history.pool.release(context)
    for segment in history.owned:
        history.pool.drop(segment, len(segment.pages) * PAGE_SIZE)
    assert history.pool.num_used == 0
    for span in history.cached:
        history.pool.uncache(span)
    history.pool.check([])
    assert history.pool.num_free == num_pages


def test_what_a_span_shows_outlives_its_owner_and_comes_back_when_needed() -> None:
    pool = PagePool(4)
    segment = Segment([0] * 40, computed=40)
    pool.grow(segment, 40)
    shared = (Span(segment, 17, 20),)
    pool.acquire(shared)
    pool.drop(segment, 40)
    # Recomputing the span would need all tokens before it, so the page before it stays, too.
    assert pool.num_used == 2
    assert segment.computed == 32
    assert list(missing(shared)) == []
    pool.release(shared)
    with pytest.raises(PoolCorrupted):
        pool.check([(segment, 20)])
    assert (pool.num_used, segment.computed) == (0, 0)
    pool.acquire(shared)
    assert list(missing(shared)) == [(segment, 20)]


def test_dropping_more_often_than_held_is_found() -> None:
    pool = PagePool(4)
    segment = Segment([0] * 20)
    pool.grow(segment, 20)
    pool.cache(Span(segment, 0, 20))
    pool.drop(segment, 20)
    with pytest.raises(PoolCorrupted, match="more often than held"):
        pool.drop(segment, 20)


def test_the_check_finds_a_wrong_count() -> None:
    pool = PagePool(4)
    segment = Segment([0] * 5)
    pool.grow(segment, 5)
    with pytest.raises(PoolCorrupted, match="holders differ"):
        pool.check([])
    with pytest.raises(PoolCorrupted, match="holders differ"):
        pool.check([(segment, 5), (segment, 5)])


@given(st.lists(st.integers(1, 9), max_size=5), st.integers(0, 50))
def test_the_first_tokens_of_a_context(lengths: list[int], count: int) -> None:
    context = tuple(Span(Segment(list(range(n + 2))), 2, n + 2) for n in lengths)
    every = [token for span in context for token in span.token_ids]
    cut = [token for span in first_tokens(context, count) for token in span.token_ids]
    assert cut == every[:count]


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_what_is_missing_comes_writers_first_and_whole(data: st.DataObject) -> None:
    """Against the definition: every span that is not computed, behind what its segment reads."""
    segments: list[Segment] = []
    for _ in range(data.draw(st.integers(1, 8))):
        read = data.draw(st.lists(st.sampled_from(segments), max_size=4)) if segments else []
        context = tuple(Span(one, 0, data.draw(st.integers(1, 10))) for one in read)
        computed = data.draw(st.sampled_from([0, 4, 10]))
        segments.append(Segment([0] * 10, context=context, computed=computed))
    wanted: dict[Segment, int] = {}

    def want(context: Context) -> None:
        for span in context:
            if not span.computed:
                want(span.segment.context)
                wanted[span.segment] = max(span.stop, wanted.get(span.segment, 0))

    asked = (Span(segments[-1], 0, 10),)
    want(asked)
    found: dict[Segment, int] = {}
    for segment, stop in missing(asked):
        for span in segment.context:
            assert span.computed or found[span.segment] >= span.stop
        found[segment] = stop
    assert found == wanted


def test_a_long_conversation_is_walked_once() -> None:
    """Each turn reads all turns before it: walked turn by turn that is 2^turns spans."""
    turns: list[Segment] = []
    for _ in range(200):
        context = tuple(Span(turn, 0, 20) for turn in turns)
        turns.append(Segment([0] * 20, position=20 * len(turns), context=context))
    lost = list(missing(tuple(Span(turn, 0, 20) for turn in turns)))
    assert lost == [(turn, 20) for turn in turns]
