"""The plan of one step: which tokens it computes, and which streams draw."""

from __future__ import annotations

from dataclasses import dataclass, field

from gsr_engine.kv.segments import Context, Segment, context_length
from gsr_engine.requests.request import RUNNING, Group, Stream


@dataclass(slots=True)  # not frozen: thousands are made per second, and frozen costs 3 times more
class Chunk:
    """Tokens `[start, stop)` of a segment that one step computes.

    `decode` marks a chunk that is the newest token of a stream, and the stream's draft behind it;
    every other chunk is prefill.
    """

    group: Group
    segment: Segment
    start: int
    stop: int
    decode: bool

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(slots=True)
class ScoredTokens:
    """Tokens `[start, stop)` of a group's prompt, each scored from the row of the token before it.

    These rows belong to the chunk of the plan with this index.
    """

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(slots=True)
class StepPlan:
    """One step. A layer writes all KV of the step before it reads any.

    Attributes:
        chunks: the chunks to compute, in row order.
        draws: (index of a chunk, stream that draws a token from its last row), in chunk order. A
            chunk with a draft has one for each row, in row order.
        shares: (group, whether it decodes, its tokens): the cost of the step by group.
        num_tokens: tokens of all chunks.
        num_decodes: how many chunks decode; they come first.
        planned: for each prefilled segment, how many of its tokens are computed after the step.
        copies: for each segment that begins with copied KV, the spans that are copied, before
            anything is computed. A chunk of it follows.
        drafts: for each decoding segment that has some, the tokens proposed behind its newest one.
            They are rows of its chunk, and every row of the chunk draws.
        scored: the tokens of prompts whose log-probabilities are wanted, in chunk order. No row is
            there for both a draw and a score: the last token of a prompt has none behind it.
    """

    chunks: list[Chunk] = field(default_factory=list)
    draws: list[tuple[int, Stream]] = field(default_factory=list)
    shares: list[tuple[Group, bool, int]] = field(default_factory=list)
    num_tokens: int = 0
    num_decodes: int = 0
    planned: dict[Segment, int] = field(default_factory=dict)
    copies: dict[Segment, Context] = field(default_factory=dict)
    drafts: dict[Segment, list[int]] = field(default_factory=dict)
    scored: list[ScoredTokens] = field(default_factory=list)

    def decode(self, group: Group) -> bool:
        """Add the next token, and the draft, of every running stream that lacks only this token.

        It must be called before any `prefill`. Returns whether some streams lack more tokens, so
        that they must be prefilled.
        """
        rows, behind, drafts = 0, False, self.drafts
        for stream in group.streams:
            if stream.state is RUNNING:
                segment, in_flight = stream.segment, stream.in_flight
                stop = len(segment.token_ids) + in_flight
                if in_flight and stop == stream.params.max_tokens:
                    continue  # the token in flight is the last that it may draw
                if segment.computed == stop - 1:
                    end, draw = stop, (len(self.chunks), stream)
                    self.draws.append(draw)
                    if drafts and segment in drafts:
                        self.draws += [draw] * len(drafts[segment])
                        end += len(drafts[segment])
                    self.chunks.append(Chunk(group, segment, stop - 1, end, decode=True))
                    rows += end - stop + 1
                else:
                    behind = True
        self.num_decodes = len(self.chunks)
        self._count(group, True, rows)
        return behind

    def refutes(self, chunk: Chunk, token: int) -> bool:
        """Whether the token that the stream of a chunk has just taken is not the proposed one."""
        draft = self.drafts.get(chunk.segment)
        if draft is None:
            return False
        place = len(chunk.segment.token_ids) - chunk.start - 2
        return place < len(draft) and draft[place] != token

    def copy(self, segment: Segment, budget: int) -> None:
        """Let a segment that is not computed begin with a copy of its sources' KV.

        It does if the plan has room for the chunk that follows, and what the segment reads is
        computed.
        """
        if self.num_tokens < budget and segment not in self.planned and self._readable(segment):
            self.copies[segment] = segment.sources

    def draw_again(self, group: Group, drawers: list[Stream]) -> None:
        """Compute the last token of a computed prompt again, because no stream has drawn from it.

        Nothing is added if the prompt is in the plan, or what it reads is not computed.
        """
        prompt = group.prompt
        if prompt not in self.planned and self._readable(prompt):
            self.planned[prompt] = len(prompt)
            self.draws.extend((len(self.chunks), stream) for stream in drawers)
            self.chunks.append(Chunk(group, prompt, len(prompt) - 1, len(prompt), decode=False))
            self._count(group, False, 1)

    def wait(self, segment: Segment) -> None:
        """Compute nothing of a segment in this step."""
        self.planned[segment] = segment.computed

    def prefill(
        self, group: Group, segment: Segment, stop: int, budget: int, drawers: list[Stream]
    ) -> None:
        """Add a segment's tokens up to `stop`, as far as the step's budget allows.

        Nothing is added if the segment is in the plan already, or if its context is neither
        computed nor part of this step. The drawers draw from the row of token `stop - 1`, if the
        chunk reaches it.
        """
        start = segment.computed
        if segment in self.copies:
            start = context_length(self.copies[segment])
        size = min(stop - start, budget - self.num_tokens)
        if size <= 0 or segment in self.planned or not self._readable(segment):
            return
        end = start + size
        self.planned[segment] = end
        if end == stop:
            self.draws.extend((len(self.chunks), stream) for stream in drawers)
        if group.scores is not None and segment is group.prompt:
            first, last = max(start + 1, group.scores.num_known), min(end + 1, len(segment))
            if first < last:
                self.scored.append(ScoredTokens(len(self.chunks), first, last))
        self.chunks.append(Chunk(group, segment, start, end, decode=False))
        self._count(group, False, size)

    def _readable(self, segment: Segment) -> bool:
        # A span may be computed in this very step: a layer writes all KV before it reads any.
        return all(
            span.computed or self.planned.get(span.segment, 0) >= span.stop
            for span in segment.context
        )

    def _count(self, group: Group, is_decode: bool, tokens: int) -> None:
        if tokens:
            self.shares.append((group, is_decode, tokens))
            self.num_tokens += tokens
