"""Numbers as a report words them."""

from __future__ import annotations


def tokens(number: float) -> str:
    """A mean number of tokens."""
    return f"{number:,.0f}" if number >= 100 else f"{number:,.1f}"


def percent(share: float) -> str:
    """A share that is mostly small."""
    return f"{share:.1%}"


def p_value(p: float | None) -> str:
    """Three digits, or that it is smaller; a dash if there is none."""
    if p is None:
        return "–"
    return f"{p:.3f}" if p >= 0.0005 else "<.001"


def whole(number: int | None) -> str:
    """A count; a dash if there is none."""
    return "–" if number is None else f"{number:,}"
