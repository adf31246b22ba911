"""What a stream that joins or leaves costs the host: calls are counted, because times vary.

Calls of Python functions and of C functions both count; numbers of array elements do not.
"""

from __future__ import annotations

import sys
from itertools import count
from types import FrameType

import pytest

from gsr_engine.attention.decode_work import DecodeWork
from gsr_engine.attention.sharing import Sharing, SharingCosts
from gsr_engine.kv.segments import Segment, Span, pages_for
from gsr_engine.step.plan import Chunk

MOST = 50, 240
"""Calls in a step without changes, and in one with a stream more or less."""


class Streams:
    """Decoding streams, each behind a prompt of its own, and their work list."""

    def __init__(self, number: int) -> None:
        self._pages = count()
        self._lists = DecodeWork(Sharing(SharingCosts(), num_heads=4, num_kv_heads=2))
        self.living = [self.new(length=20 + i % 200) for i in range(number)]

    def new(self, length: int) -> Segment:
        problem = Segment([0] * 1000)
        stream = Segment([0] * length, 1000, (Span(problem, 0, 1000),))
        for segment in (problem, stream):
            self._grow(segment)
        return stream

    def _grow(self, segment: Segment) -> None:
        while len(segment.pages) < pages_for(len(segment)):
            segment.pages.append(next(self._pages))

    def step(self) -> int:
        """Every stream reads one token more; returns how many calls the list took."""
        for segment in self.living:
            segment.token_ids.append(0)
            self._grow(segment)
        chunks = [Chunk(None, s, len(s) - 1, len(s), decode=True) for s in self.living]  # type: ignore[arg-type]
        calls = 0

        def note(frame: FrameType, event: str, arg: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            self._lists.build(chunks)
        finally:
            sys.setprofile(None)
        return calls


def join_and_leave(number: int) -> tuple[int, int, int]:
    """Calls of a step without changes, of one with a stream more, of one with a stream less."""
    streams = Streams(number)
    for _ in range(3):
        streams.step()
    # No stream begins a page or a piece in these steps, which would count, too.
    streams.living = [s for s in streams.living if 1 < len(s) % 16 < 11]
    streams.step()
    same = streams.step()
    streams.living.append(streams.new(length=20))
    more = streams.step()
    del streams.living[3]
    return same, more, streams.step()


@pytest.mark.parametrize("number", [64, 512])
def test_calls_do_not_grow_with_the_streams(number: int) -> None:
    same, more, less = join_and_leave(number)
    assert same <= MOST[0]
    assert max(more, less) <= MOST[1]
