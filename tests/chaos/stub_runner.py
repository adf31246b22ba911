"""A model that writes hashes instead of KV, and checks what is read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from gsr_engine.execution.sampler import Draws
from gsr_engine.kv.segments import PAGE_SIZE, Segment, context_length
from gsr_engine.model.weights import Renewal
from gsr_engine.requests.request import Stream
from gsr_engine.step.batch import copied_slots, slots
from gsr_engine.step.plan import StepPlan
from tests.chaos.actions import Fault
from tests.helpers.drafts import FREE

END = 2  # nano's


class StubDraws:
    """What a step drew; known once it is waited for."""

    def __init__(
        self, tokens: list[int], logprobs: list[float], scores: list[float], broken: bool
    ) -> None:
        self._draws = Draws(tokens, logprobs, scores=[(one, None) for one in scores])
        self._broken = broken

    def wait(self) -> Draws:
        if self._broken:
            raise RuntimeError("the device burnt down")
        return self._draws


class StubRunner:
    """Slots hold a hash of everything up to there; a reader must find what it expects.

    What is drawn depends on what was read and on the stream's seed, and on nothing else.
    """

    def __init__(self, num_pages: int, lag: int) -> None:
        self.num_pages = num_pages
        self.lag = lag
        self.sharing = self.graph_counts = None
        self.costs = FREE
        self._kv = np.zeros(num_pages * PAGE_SIZE, dtype=np.int64)
        self._contents = Contents()
        self._drawn: dict[Segment, int] = {}
        self._drafts: dict[Segment, list[int]] = {}
        self.fault: Fault | None = None
        self.fault_row = 0
        self._scarce_steps = self._most_tokens = 0

    def scarce(self, steps: int, most_tokens: int) -> None:
        """From now on so many steps find memory only if they are small."""
        self._scarce_steps, self._most_tokens = steps, most_tokens

    def launch(self, plan: StepPlan) -> StubDraws:
        fault, self.fault = self.fault, None
        if fault == "launch":
            raise RuntimeError("the device is on fire")
        if fault == "interrupt":
            raise KeyboardInterrupt
        self._drafts = plan.drafts
        self._copy(plan)
        self._scarce_steps -= 1
        if self._scarce_steps >= 0 and plan.num_tokens > self._most_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        for chunk in plan.chunks:
            segment = chunk.segment
            copied = context_length(plan.copies.get(segment, ()))
            drawn_again = segment.computed == len(segment) == chunk.stop == chunk.start + 1
            assert drawn_again or chunk.start == (copied or segment.computed) < chunk.stop
            self._write(chunk.segment, chunk.start, chunk.stop)
        for chunk in plan.chunks:
            for span in chunk.segment.context:
                self._read(span.segment, span.stop)
            self._read(chunk.segment, chunk.stop)
        tokens, before, ahead = [], -1, 0
        for row, stream in plan.draws:
            segment = plan.chunks[row].segment
            ahead = ahead + 1 if row == before and segment in plan.drafts else 0
            tokens.append(self._draw(segment, stream, ahead))
            before = row
        self._drawn = {s.segment: token for (_, s), token in zip(plan.draws, tokens, strict=True)}
        logprobs, scores = [-1.0] * len(tokens), self._scores(plan)
        if fault == "nan" and (tokens or scores):
            row = self.fault_row % (len(tokens) + len(scores))
            every, row = (logprobs, row) if row < len(tokens) else (scores, row - len(tokens))
            every[row] = float("nan")
        return StubDraws(tokens, logprobs, scores, broken=fault == "transfer")

    def _scores(self, plan: StepPlan) -> list[float]:
        scores = []
        for part in plan.scored:
            chunk = plan.chunks[part.index]
            assert chunk.start < part.start < part.stop <= chunk.stop + 1
            seen = self._kv[slots(chunk.segment, 0, part.stop - 1)][part.start - 1 :]
            targets = chunk.segment.token_ids[part.start : part.stop]
            scores += [score(int(s), token) for s, token in zip(seen, targets, strict=True)]
        return scores

    def _draw(self, segment: Segment, stream: Stream, ahead: int) -> int:
        assert stream.num_drawn + ahead < (stream.params.max_tokens or 0)
        count = stream.num_drawn + ahead if segment is stream.segment else len(segment)
        return draw(int(self._expected(segment, count)[-1]), stream.seed)

    def _copy(self, plan: StepPlan) -> None:
        if plan.copies:
            read, written = copied_slots(plan)
            self._kv[written] = self._kv[read]
        for segment, sources in plan.copies.items():
            assert all(span.computed for span in sources)
            assert segment.computed == 0
            self._read(segment, context_length(sources))

    def _write(self, segment: Segment, start: int, stop: int) -> None:
        self._kv[slots(segment, start, stop)] = self._expected(segment, stop)[start:]

    def _read(self, segment: Segment, stop: int) -> None:
        assert np.array_equal(self._kv[slots(segment, 0, stop)], self._expected(segment, stop))

    def _expected(self, segment: Segment, stop: int) -> npt.NDArray[np.int64]:
        known = self._contents.of(segment)
        if segment in self._drafts:
            known = [*known]
            for token in self._drafts[segment]:
                known.append(follow(known[-1], token))
        elif stop > len(known):  # the last token is in flight
            known = [
                *known,
                follow(self._contents.before(segment, len(known)), self._drawn[segment]),
            ]
        return np.array(known[:stop], dtype=np.int64)

    def use(self, renew: Renewal) -> None:
        """No weights are used."""

    def reset(self) -> None:
        """Nothing is kept."""


class Contents:
    """What the KV of every token depends on: a hash of all that it could see, in order."""

    def __init__(self) -> None:
        self._bases: dict[Segment, int] = {}
        self._hashes: dict[Segment, list[int]] = {}

    def base(self, segment: Segment) -> int:
        """The hash of a segment's context."""
        if segment not in self._bases:
            value = 0
            for span in segment.context:
                for token in span.token_ids:
                    value = follow(value, token)
            self._bases[segment] = value
        return self._bases[segment]

    def of(self, segment: Segment) -> list[int]:
        """The hash of each token of a segment."""
        hashes = self._hashes.setdefault(segment, [])
        value = hashes[-1] if hashes else self.base(segment)
        for token in segment.token_ids[len(hashes) :]:
            value = follow(value, token)
            hashes.append(value)
        return hashes

    def before(self, segment: Segment, count: int) -> int:
        """What the token after a stream's first `count` tokens was drawn from."""
        return self.of(segment)[count - 1] if count else self.base(segment)


def follow(value: int, token: int) -> int:
    """The hash of some tokens and one more."""
    return hash((value, token))


def score(seen: int, token: int) -> float:
    """What a token is believed to be worth: a fixed function of what was read, and of itself."""
    return -(hash((seen, token)) % 1000) / 100


def draw(seen: int, seed: int) -> int:
    """The token that follows: a fixed function of what was read."""
    value = hash((seen, seed))
    return END if value % 33 == 0 else 6 + value % 3
