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
from collections.abc import Iterable
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
    first `computed` tokens is written; page `pages[i]` holds tokens `[16 i, 16 i + 16)`.
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
    def pages(self) -> list[int]:
        """The pages that the span touches."""
        return self.segment.pages[self.start // PAGE_SIZE : pages_for(self.stop)]

    @property
    def computed(self) -> bool:
        """Whether the KV of every token of the span is written."""
        return self.segment.computed >= self.stop


Context = tuple[Span, ...]


def context_length(context: Context) -> int:
    """Number of tokens that a context shows."""
    return sum(len(span) for span in context)


class PagePool:
    """Hands out page numbers and counts who holds them.

    A page is free, or held one or more times: once by the segment that owns it and once by
    each acquired context whose spans touch it. It returns to the pool with its last holder.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.peak_used = 0
        self._free = list(range(num_pages - 1, -1, -1))
        self._holders = [0] * num_pages

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Pages that somebody holds."""
        return self.num_pages - len(self._free)

    def grow(self, segment: Segment, num_tokens: int) -> None:
        """Give a segment the pages for its first `num_tokens` tokens, held by the segment.

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

    def free(self, segment: Segment) -> None:
        """Give up a segment's own hold on its pages; spans that others acquired stay readable."""
        self._release(segment.pages)
        # Acquired spans keep page numbers through `segment.pages`, so the list itself stays.

    def acquire(self, context: Context) -> None:
        """Hold every page that the spans of a context touch."""
        for span in context:
            for page in span.pages:
                if not self._holders[page]:
                    raise PoolCorrupted(f"page {page} of an acquired span is free")
                self._holders[page] += 1

    def release(self, context: Context) -> None:
        """Undo one `acquire` of the same context."""
        for span in context:
            self._release(span.pages)

    def _release(self, pages: Iterable[int]) -> None:
        for page in pages:
            if self._holders[page] <= 0:
                raise PoolCorrupted(f"page {page} was released more often than held")
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free.append(page)

    def check(self, segments: Iterable[Segment], contexts: Iterable[Context]) -> None:
        """Prove that the counts are those of the given live segments and acquired contexts.

        Raises:
            PoolCorrupted: a page is lost, held twice over, or used after it was freed.
        """
        census: Counter[int] = Counter()
        for segment in segments:
            census.update(segment.pages)
            if any(census[page] > 1 for page in segment.pages):
                raise PoolCorrupted("two segments own one page")
        for context in contexts:
            for span in context:
                census.update(span.pages)
        held = {page: n for page, n in enumerate(self._holders) if n}
        if held != dict(census):
            wrong = {p for p in held.keys() | census.keys() if held.get(p, 0) != census[p]}
            raise PoolCorrupted(f"pages {sorted(wrong)[:8]}: counted and real holders differ")
        if len(self._free) != len(set(self._free)) or len(self._free) + len(held) != self.num_pages:
            raise PoolCorrupted("free and held pages do not add up to the pool")
