"""The bound on the pieces of a context and on the pages that they touch."""

from __future__ import annotations

from gsr_engine.kv.segments import PAGE_SIZE, Context, context_length, pages_for


def check_pieces(context: Context, named: int = 0) -> None:
    """A context of n tokens has few pieces, and touches few pages, whatever came before."""
    tokens = context_length(context)
    assert len(context) <= tokens / 128 + 2 + named
    pages = sum(pages_for(span.stop) - span.start // PAGE_SIZE for span in context)
    assert pages <= 1.125 * tokens / PAGE_SIZE + 3 + 2 * named
