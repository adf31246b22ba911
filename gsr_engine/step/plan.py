"""What one step computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from gsr_engine.kv.segments import Segment
from gsr_engine.requests.request import Group, Stream, StreamState


@dataclass(slots=True)  # not frozen: thousands are made per second, and that costs three times more
class Chunk:
    """Tokens `[start, stop)` of a segment that one step computes.

    `decode` marks the next token of a stream; every other chunk is prefill.
    """

    group: Group
    segment: Segment
    start: int
    stop: int
    decode: bool

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(slots=True)
class StepPlan:
    """One step. A layer writes all KV of the step before it reads any.

    Attributes:
        chunks: what is computed, in row order.
        draws: (index of a chunk, who draws a token from its last row), in order of the chunks.
        shares: (group, whether it decodes, its tokens): the cost of the step by group.
        num_tokens: tokens of all chunks.
        num_decodes: how many chunks decode; they come first.
        planned: up to where each prefilled segment will be computed.
    """

    chunks: list[Chunk] = field(default_factory=list)
    draws: list[tuple[int, Stream]] = field(default_factory=list)
    shares: list[tuple[Group, bool, int]] = field(default_factory=list)
    num_tokens: int = 0
    num_decodes: int = 0
    planned: dict[Segment, int] = field(default_factory=dict)

    def decode(self, group: Group) -> bool:
        """Add the next token of every stream of a group that has only that one to compute.

        Called before any `prefill`. Returns whether there are streams that lost more than that.
        """
        before, behind, running = len(self.chunks), False, StreamState.RUNNING
        for stream in group.streams:
            if stream.state is running:
                segment, in_flight = stream.segment, stream.in_flight
                stop = len(segment.token_ids) + in_flight
                if in_flight and stop == stream.params.max_tokens:
                    continue  # the token that is being drawn is its last
                if segment.computed == stop - 1:
                    self.draws.append((len(self.chunks), stream))
                    self.chunks.append(Chunk(group, segment, stop - 1, stop, decode=True))
                else:
                    behind = True
        self.num_decodes = len(self.chunks)
        self._count(group, True, len(self.chunks) - before)
        return behind

    def prefill(
        self, group: Group, segment: Segment, stop: int, budget: int, drawers: list[Stream]
    ) -> None:
        """Add a segment's tokens up to `stop` as far as the step's budget goes, if what they read
        is there.

        The drawers draw from the last row once the whole of it is computed.
        """
        size = min(stop - segment.computed, budget - self.num_tokens)
        if size <= 0 or segment in self.planned or not self._readable(segment):
            return
        end = segment.computed + size
        self.planned[segment] = end
        if end == stop:
            self.draws.extend((len(self.chunks), stream) for stream in drawers)
        self.chunks.append(Chunk(group, segment, segment.computed, end, decode=False))
        self._count(group, False, size)

    def _readable(self, segment: Segment) -> bool:
        return all(
            span.computed or self.planned.get(span.segment, 0) >= span.stop
            for span in segment.context
        )

    def _count(self, group: Group, is_decode: bool, tokens: int) -> None:
        if tokens:
            self.shares.append((group, is_decode, tokens))
            self.num_tokens += tokens
