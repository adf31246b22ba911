"""Segments, spans and contexts: what a token can see, and the pages that hold it.

A *segment* is an append-only run of tokens with KV pages of its own. A *span* is some
consecutive tokens of a segment. A *context* is a list of spans. Every token of a segment
attends to all of its segment's context and causally to its own segment; nothing else exists.

    problem     [ P0 P1 P2 P3 | P4 P5 .. .. ]        a page holds tokens of one segment only
                       ^ span (problem, 0, 6)
    candidate 1 [ A0 A1 A2 .. ]   context: the span above; starts on a page of its own
    candidate 2 [ B0 B1 .. .. ]   context: the same span, the same pages, two references more

This module knows nothing of tensors: a page is a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gsr_engine.errors import OutOfPages, PoolCorrupted

PAGE_SIZE = 16


def pages_for(num_tokens: int) -> int:
    """Pages that a segment of `num_tokens` tokens fills (the last one perhaps in part)."""
    return -(-num_tokens // PAGE_SIZE)


@dataclass(eq=False, slots=True)
class Segment:
    """An append-only run of tokens.

    `position` is the position of its first token, the others follow one by one. The KV of the
    first `computed` tokens is written; page `pages[i]` holds tokens `[16 i, 16 i + 16)`. Pages
    leave from the end when nobody holds them, and `computed` falls with them: what is needed
    again is computed again, whoever needs it.
    """

    token_ids: list[int]
    position: int = 0
    context: Context = ()
    computed: int = 0
    pages: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def end_position(self) -> int:
        """The position right after the last token."""
        return self.position + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `[start, stop)` of a segment, at token (not page) granularity."""

    segment: Segment
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def token_ids(self) -> list[int]:
        """The tokens that the span shows."""
        return self.segment.token_ids[self.start : self.stop]

    @property
    def computed(self) -> bool:
        """Whether the KV of every token of the span is written."""
        return self.segment.computed >= self.stop


Context = tuple[Span, ...]


def context_length(context: Context) -> int:
    """Number of tokens that a context shows."""
    return sum(len(span) for span in context)


def first_tokens(context: Context, count: int) -> Context:
    """The context that shows the first `count` tokens of another."""
    kept = []
    for span in context:
        if count <= 0:
            break
        kept.append(Span(span.segment, span.start, min(span.stop, span.start + count)))
        count -= len(span)
    return tuple(kept)


def missing(context: Context) -> Iterator[tuple[Segment, int]]:
    """(segment, stop) of whatever a context shows and nobody computed, writers before readers."""
    for span in context:
        if not span.computed:
            yield from missing(span.segment.context)
            yield span.segment, span.stop


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
