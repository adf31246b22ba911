"""The work list of decoding streams, patched from step to step on the host.

From one step to the next each stream reads some tokens more, and few streams join or leave. So the
ends of the streams' own items move, and a stream that grows beyond a piece gets one item more. When
the streams change, or the lengths of their drafts, the list is laid out anew by operations on whole
arrays. Only what joins or leaves is looked at span by span.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from csrc_triton.arrays import run_indices
from gsr_engine.attention.host_work import HostWork
from gsr_engine.attention.layout import Layout
from gsr_engine.attention.readers import Readers, Reads
from gsr_engine.attention.sharing import Sharing
from gsr_engine.kv.segments import Segment
from gsr_engine.step.plan import Chunk


class DecodeWork:
    """Makes the work list of the decoding chunks of each step, one row per token."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._readers = Readers()
        self._segments: list[Segment] = []
        self._reads: Reads | None = None
        self._layout: Layout | None = None

    def build(self, chunks: Sequence[Chunk]) -> HostWork:
        """The list for chunks in row order; the next call overwrites it.

        Each row of a draft is laid out like a stream that ends there, and so is each row of a
        prompt.
        """
        segments = [chunk.segment for chunk in chunks]
        # It may be computed again, after a preemption: it and its context have other pages then.
        anew = [chunk.segment for chunk in chunks if not chunk.decode]
        if self._readers.forget(anew):
            self._reads = None
        starts = np.array([chunk.start for chunk in chunks])
        stops = np.array([chunk.stop for chunk in chunks])
        if self._reads is None or segments != self._segments:
            self._reads, self._layout = self._readers.update(segments), None
            self._segments = segments
        reads, counts = self._reads, stops - starts
        row_stops = run_indices(starts + 1, counts)
        if self._layout is None or not self._layout.has_room(counts, row_stops):
            self._readers.make_room(reads.own, stops)
            self._readers.extend(segments, reads.own, starts, stops)
            self._layout = Layout(self._readers, reads, counts, row_stops, self._sharing)
        else:
            self._readers.extend(segments, reads.own, starts, stops)
            self._layout.advance(row_stops)
        self._sharing.count(*self._layout.counts)
        return self._layout.work()
