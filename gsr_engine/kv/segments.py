"""Segments, spans and contexts: which tokens a token sees, and the pages that hold them.

A *segment* is an append-only run of tokens with its own KV pages. A *span* is some
consecutive tokens of a segment. A *context* is a list of spans. Every token of a segment
attends to all of its segment's context and causally to its own segment; nothing else exists.

    problem     [ P0 P1 P2 P3 | P4 P5 .. .. ]        a page holds tokens of one segment only
                       ^ span (problem, 0, 6)
    candidate 1 [ A0 A1 A2 .. ]   context: the span above; starts on a new page
    candidate 2 [ B0 B1 .. .. ]   context: the same span; its pages are shared, not copied

This module knows nothing of tensors: a page is a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

PAGE_SIZE = 16


def pages_for(num_tokens: int) -> int:
    """Pages that a segment of `num_tokens` tokens fills (the last one perhaps in part)."""
    return -(-num_tokens // PAGE_SIZE)


@dataclass(eq=False, slots=True)
class Segment:
    """An append-only run of tokens.

    Attributes:
        token_ids: its tokens; they may be known before their KV is computed.
        position: the position of the first token; the others follow one by one.
        context: the spans that every token of it attends to, besides its own segment.
        sources: spans with the same tokens as the beginning of this segment. Their KV is copied
            instead of computed again, if it is still there when the segment is first computed.
            Empty once the copy is proven, or is not wanted any more.
        computed: the KV of this many first tokens is written. It falls when pages are freed; the
            next reader recomputes what it needs.
        proven: this many of them have been read by a draw that was finite, so their KV is sound.
        pages: `pages[i]` holds tokens `[16 i, 16 i + 16)`. Pages without a holder are freed from
            the end.
    """

    token_ids: list[int]
    position: int = 0
    context: Context = ()
    sources: Context = ()
    computed: int = 0
    proven: int = 0
    pages: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def end_position(self) -> int:
        """The position right after the last token."""
        return self.position + len(self.token_ids)

    @property
    def reads(self) -> Context:
        """Every span that its KV comes from: those that it attends to, and those it copies."""
        return self.context + self.sources

    def forget(self, kept: int) -> None:
        """Forget the KV behind the first `kept` tokens, as if it had never been written."""
        self.computed = min(self.computed, kept)
        self.proven = min(self.proven, kept)


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
        """The tokens of the span."""
        return self.segment.token_ids[self.start : self.stop]

    @property
    def computed(self) -> bool:
        """Whether the KV of every token of the span is written."""
        return self.segment.computed >= self.stop


Context = tuple[Span, ...]


def context_length(context: Context) -> int:
    """Number of tokens of all spans of a context."""
    return sum(len(span) for span in context)


def first_tokens(context: Context, count: int) -> Context:
    """The part of a context that holds its first `count` tokens."""
    kept = []
    for span in context:
        if count <= 0:
            break
        kept.append(Span(span.segment, span.start, min(span.stop, span.start + count)))
        count -= len(span)
    return tuple(kept)


def missing(context: Context) -> Iterator[tuple[Segment, int]]:
    """(segment, stop) of every span that a context reads and that is not computed.

    Spans that those segments read themselves come before them: writers before readers. The work is
    linear in the spans of all segments involved, because each context is walked once.
    """
    walked: set[Segment] = set()
    stops: dict[Segment, int] = {}
    stack = list(reversed(context))
    while stack:
        span = stack[-1]
        if not span.computed and span.segment not in walked:
            walked.add(span.segment)
            stack.extend(reversed(span.segment.context))
            continue  # the span itself comes after what its segment reads
        stack.pop()
        if not span.computed and span.stop > stops.get(span.segment, 0):
            stops[span.segment] = span.stop
            yield span.segment, span.stop
