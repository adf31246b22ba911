"""The page pool: hands out page numbers and counts who holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from gsr_engine.errors import OutOfPages, PoolCorrupted
from gsr_engine.kv.segments import PAGE_SIZE, Context, Segment, Span, pages_for


class PagePool:
    """Hands out page numbers and counts who holds them.

    A holder of a segment holds the pages of its first tokens, up to some token: its owner up to
    its end, a context up to the end of its span (what a span shows can be computed again only with
    what precedes it in its segment). So the holders of a page never outnumber those of the page
    before it, and pages come free from the end. The prefix cache's holds are counted apart: a
    page that it alone holds is *idle*, there to be had.
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
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Pages that somebody other than the prefix cache holds."""
        return self.num_pages - len(self._free) - self.num_idle

    def grow(self, segment: Segment, num_tokens: int) -> None:
        """Give the owner of a segment the pages for its first `num_tokens` tokens.

        Raises:
            OutOfPages: fewer pages are free than it lacks; nothing was handed out.
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
        """Become a holder of the pages of the first `num_tokens` tokens; missing ones are added.

        Raises:
            OutOfPages: fewer pages are free than are missing; nothing changed.
        """
        there = segment.pages[: pages_for(num_tokens)]
        self.grow(segment, num_tokens)
        for page in there:
            self.num_idle -= not self._holders[page]
            self._holders[page] += 1
        self.peak_used = max(self.peak_used, self.num_used)

    def drop(self, segment: Segment, num_tokens: int) -> None:
        """Undo one `hold` or `grow` up to the same token."""
        for page in segment.pages[: pages_for(num_tokens)]:
            if self._holders[page] <= 0:
                raise PoolCorrupted(f"page {page} was dropped more often than held")
            self._holders[page] -= 1
            self.num_idle += not self._holders[page]
        self._trim(segment)

    def cache(self, span: Span) -> None:
        """Hold what a span needs for the prefix cache; somebody else holds it now."""
        for page in span.segment.pages[: pages_for(span.stop)]:
            self._cached[page] += 1

    def uncache(self, span: Span) -> None:
        """Undo one `cache` of the same span."""
        for page in span.segment.pages[: pages_for(span.stop)]:
            self._cached[page] -= 1
        self._trim(span.segment)

    def _trim(self, segment: Segment) -> None:
        """Take back the last pages of a segment while nobody holds them."""
        pages = segment.pages
        while pages and not self._holders[pages[-1]] and not self._cached[pages[-1]]:
            self._free.append(pages.pop())
            self.num_idle -= 1
        segment.computed = min(segment.computed, len(pages) * PAGE_SIZE)

    def acquire(self, context: Context) -> None:
        """Hold what every span of a context needs.

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
        """Prove that the counts are those of the given holds (segment, tokens) and cached spans.

        Raises:
            PoolCorrupted: a page is lost, held twice over, or used after it was freed.
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
    """Pages that some holds (segment, tokens) would add, each segment counted once."""
    wanted: dict[Segment, int] = {}
    for segment, num_tokens in holds:
        wanted[segment] = max(num_tokens, wanted.get(segment, 0))
    return sum(max(0, pages_for(n) - len(s.pages)) for s, n in wanted.items())
