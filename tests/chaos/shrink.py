"""Shrinks a failing history to the events that it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def shrink_failure(events: list[T], live: Callable[[list[T]], object]) -> list[T]:
    """The events that `live` needs to raise an exception."""

    def fails(part: list[T]) -> bool:
        try:
            live(part)
        except Exception:
            return True
        return False

    return shrink(events, fails)


def shrink(events: list[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """A part of `events` that still fails, and of which no single event can be left out.

    Blocks are left out first, then smaller ones (Zeller's delta debugging).
    """
    size = len(events) // 2
    while size:
        before, begin = len(events), 0
        while begin < len(events):
            shorter = events[:begin] + events[begin + size :]
            if fails(shorter):
                events = shorter
            else:
                begin += size
        if size > 1 or len(events) == before:
            size //= 2
    return events
