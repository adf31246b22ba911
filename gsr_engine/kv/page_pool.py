"""The page pool: allocates page numbers and counts their holders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from gsr_engine.errors import OutOfPages, PoolCorrupted
from gsr_engine.kv.segments import PAGE_SIZE, Context, Segment, Span, pages_for


class PagePool:
    """Allocates page numbers and counts the holders of each page.

    Every holder holds a prefix of a segment's pages: the owner all of them, a reader all up to the
    end of its span, because recomputing a span needs everything before it. Reference counts
    therefore never increase along a segment, and pages become free from the end.

    The holds of the prefix cache are counted separately. A page that only the cache holds is
    *idle*: evicting its span frees it.

    Attributes:
        num_pages: size of the pool.
        peak_used: the largest `num_used` so far.
        num_idle: pages that only the prefix cache holds.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.peak_used = 0
        self.num_idle = 0
        self._free = list(range(num_pages - 1, -1, -1))
        self._holders = [0] * num_pages
        self._cached = [0] * num_pages

    @property
    def num_free(self) -> int:
        """Pages without a holder."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Pages with a holder other than the prefix cache."""
        return self.num_pages - len(self._free) - self.num_idle

    def grow(self, segment: Segment, num_tokens: int) -> None:
        """Add the missing pages for a segment's first `num_tokens` tokens, held by the caller.

        Raises:
            OutOfPages: fewer pages are free than are missing; nothing changed.
        """
        lacking = pages_for(num_tokens) - len(segment.pages)
        if lacking <= 0:
            return
        if lacking > len(self._free):
            raise OutOfPages(f"{lacking} pages wanted, {len(self._free)} free")
        for _ in range(lacking):
            page = self._free.pop()
            self._holders[page] = 1
            segment.pages.append(page)
        self.peak_used = max(self.peak_used, self.num_used)

    def hold(self, segment: Segment, num_tokens: int) -> None:
        """Add a holder to the pages of the first `num_tokens` tokens; missing pages are added.

        Raises:
            OutOfPages: fewer pages are free than are missing; nothing changed.
        """
        there = segment.pages[: pages_for(num_tokens)]
        self.grow(segment, num_tokens)
        for page in there:
            self.num_idle -= not self._holders[page]  # only the cache held it until now
            self._holders[page] += 1
        self.peak_used = max(self.peak_used, self.num_used)

    def drop(self, segment: Segment, num_tokens: int) -> None:
        """Undo one `hold` or `grow` up to the same token.

        Raises:
            PoolCorrupted: a page has no holder left to remove.
        """
        for page in segment.pages[: pages_for(num_tokens)]:
            if self._holders[page] <= 0:
                raise PoolCorrupted(f"page {page} was dropped more often than held")
            self._holders[page] -= 1
            # Idle until `_trim` frees it: it does so at once unless the cache holds the page.
            self.num_idle += not self._holders[page]
        self._trim(segment)

    def cache(self, span: Span) -> None:
        """Let the prefix cache hold a span's pages; at this time they must have another holder."""
        for page in span.segment.pages[: pages_for(span.stop)]:
            self._cached[page] += 1

    def uncache(self, span: Span) -> None:
        """Undo one `cache` of the same span."""
        for page in span.segment.pages[: pages_for(span.stop)]:
            self._cached[page] -= 1
        self._trim(span.segment)

    def is_idle(self, span: Span) -> bool:
        """Whether only the cache holds a span's last page; so its eviction frees that page."""
        # Every holder holds a prefix, so the pages before it have no fewer holders.
        return not self._holders[span.segment.pages[pages_for(span.stop) - 1]]

    def _trim(self, segment: Segment) -> None:
        """Free the last pages of a segment that have no holder; `computed` falls with them."""
        pages = segment.pages
        while pages and not self._holders[pages[-1]] and not self._cached[pages[-1]]:
            self._free.append(pages.pop())
            self.num_idle -= 1
        segment.forget(len(pages) * PAGE_SIZE)

    def acquire(self, context: Context) -> None:
        """Hold the pages of every span of a context.

        Raises:
            OutOfPages: fewer pages are free than are missing; nothing changed.
        """
        lacking = lacking_pages((span.segment, span.stop) for span in context)
        if lacking > len(self._free):
            raise OutOfPages(f"{lacking} pages wanted, {len(self._free)} free")
        for span in context:
            self.hold(span.segment, span.stop)

    def release(self, context: Context) -> None:
        """Undo one `acquire` of the same context."""
        for span in context:
            self.drop(span.segment, span.stop)

    def check(self, holds: Iterable[tuple[Segment, int]], cached: Iterable[Span] = ()) -> None:
        """Prove that the counts match the given holds (segment, tokens) and cached spans.

        Raises:
            PoolCorrupted: a page is lost, belongs to two segments, or is used after it was freed.
        """
        owners: dict[int, Segment] = {}
        held = _census(holds, owners)
        idle = _census(((span.segment, span.stop) for span in cached), owners)
        for page in range(self.num_pages):
            counted, real = (self._holders[page], self._cached[page]), (held[page], idle[page])
            if counted != real:
                raise PoolCorrupted(f"page {page}: counted and real holders differ")
        free = set(self._free)
        if len(self._free) != len(free) or free & owners.keys():
            raise PoolCorrupted("a page is free twice over, or free and in use")
        if len(free) + len(held | idle) != self.num_pages:
            raise PoolCorrupted("free and held pages do not add up to the pool")
        if self.num_idle != len(idle.keys() - held.keys()):
            raise PoolCorrupted(f"{self.num_idle} pages are counted as idle")


def _census(holds: Iterable[tuple[Segment, int]], owners: dict[int, Segment]) -> Counter[int]:
    """Holders per page; adds each page's segment to `owners`."""
    census: Counter[int] = Counter()
    for segment, num_tokens in holds:
        wanted = pages_for(num_tokens)
        if len(segment.pages) < wanted:
            raise PoolCorrupted(f"a holder of {wanted} pages finds {len(segment.pages)}")
        census.update(segment.pages[:wanted])
        for page in segment.pages:
            if owners.setdefault(page, segment) is not segment:
                raise PoolCorrupted("two segments own one page")
    return census


def lacking_pages(holds: Iterable[tuple[Segment, int]]) -> int:
    """Pages that these holds (segment, tokens) would add to the segments.

    Holds of the same segment share pages, so only the longest of them counts.
    """
    wanted: dict[Segment, int] = {}
    for segment, num_tokens in holds:
        wanted[segment] = max(num_tokens, wanted.get(segment, 0))
    return sum(max(0, pages_for(n) - len(s.pages)) for s, n in wanted.items())
