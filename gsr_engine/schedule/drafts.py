"""Decides which proposed tokens a step verifies: as many as make the most tokens per second."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from gsr_engine.requests.lookup import Lookup
from gsr_engine.requests.request import Stream

LEAST_GAIN = 1.03
"""Drafts must promise this many times the tokens per second of a step without them: costs and rates
are estimates."""
_REST = 8
"""A stream for which a draft is not worth its cost is looked up whenever it has drawn this many
tokens more."""
_FIRST_LOOK_SECONDS = 30e-6
"""What a lookup is believed to take before the first."""


class StepCosts(Protocol):
    """How long a step takes that only decodes."""

    @property
    def draft_seconds(self) -> float:
        """How much longer it takes because it has a draft, however short."""

    @property
    def token_seconds(self) -> float:
        """How much longer it takes for each row and each token that the row sees."""

    def row_seconds(self, rows: int) -> float:
        """Of a step with so many rows that see next to nothing."""


class Drafts:
    """Chooses the drafts of each step.

    A step of S streams draws S tokens. A draft adds rows to it. Its i-th token counts only if all
    before it are right, too, so its row adds acceptance^i tokens. The rows that add most come
    first. As many are taken as make the most tokens per second, by the measured cost of a step.
    With many streams a row costs as much as it can bring; then nothing is looked up.

    Attributes:
        wanted: whether the last step had drafts, or would have had them if all tokens had been
            known. The next step then needs them before it is planned.
        exposed_seconds: how much longer a step with drafts takes because the host cannot plan it
            during the one before; 0 where the host plans no step ahead.
    """

    def __init__(self, most: int, most_rows: int, costs: StepCosts) -> None:
        """Choose at most `most` tokens per stream, in steps of at most `most_rows` rows."""
        self._most = most
        self._most_rows = most_rows
        self._costs = costs
        self._row_seconds: list[float] = [0.0]
        self._payable: dict[int, bool] = {}
        self._look_seconds = _FIRST_LOOK_SECONDS
        self.wanted = False
        self.exposed_seconds = 0.0

    def choose(self, streams: Sequence[Stream], others: int = 0) -> dict[Stream, list[int]]:
        """The drafts of a step in which these streams decode, and `others` that have none.

        A stream with a token in flight gets none: what follows that token is not known.
        """
        self.wanted = False
        rows = len(streams) + others
        if not self._may_pay(rows):
            return {}
        lookups = [_lookup_of(stream) for stream in streams]
        # First as if each had a whole proposal: is it worth looking at all?
        whole = [min(self._most, _room(stream)) for stream in streams]
        hopes = self._depths(lookups, whole, rows, self._look_seconds)
        began, looks, lengths = time.perf_counter(), 0, [0] * len(streams)
        for i, (stream, lookup) in enumerate(zip(streams, lookups, strict=True)):
            if hopes[i] or len(stream.segment) % _REST == 0:
                lookup.follow(stream.segment.token_ids, whole[i])
                lengths[i] = len(lookup.proposal)
                looks += 1
        if looks:
            seconds = (time.perf_counter() - began) / looks
            self._look_seconds += 0.1 * (seconds - self._look_seconds)
        depths = self._depths(lookups, lengths, rows, 0.0)
        self.wanted = any(depths)
        return {
            stream: lookup.proposal[:depth]
            for stream, lookup, depth in zip(streams, lookups, depths, strict=True)
            if depth and not stream.in_flight
        }

    def _may_pay(self, rows: int) -> bool:
        """Whether drafts would pay beside so many rows if every token of them were right."""
        known = self._payable.get(rows)
        if known is None:
            least = LEAST_GAIN * rows / self._seconds(rows)
            overhead = self._costs.draft_seconds + self._look_seconds
            more = range(rows + 1, min(rows * (1 + self._most), self._most_rows) + 1)
            rates = (count / (self._seconds(count) + overhead) for count in more)
            known = self._payable[rows] = any(rate >= least for rate in rates)
        return known

    def _seconds(self, rows: int) -> float:
        known = self._row_seconds
        while rows >= len(known):
            known.append(self._costs.row_seconds(len(known)))
        return known[rows]

    def _depths(
        self, lookups: list[Lookup], lengths: list[int], rows: int, look_seconds: float
    ) -> list[int]:
        """How many tokens of each proposal are worth computing beside `rows` rows without drafts.

        `lengths` are those of the proposals; a look costs `look_seconds` for each that is used.
        """
        gains = sorted(
            (
                (lookup.acceptance**place, -place, owner)
                for owner, (lookup, length) in enumerate(zip(lookups, lengths, strict=True))
                for place in range(1, length + 1)
            ),
            reverse=True,
        )
        seen = sum(lookup.length for lookup in lookups) / len(lookups) * self._costs.token_seconds
        drawn, overhead = float(rows), self._costs.draft_seconds + self.exposed_seconds
        best, chosen = LEAST_GAIN * drawn / (self._seconds(rows) + rows * seen), 0
        count = rows
        for gain, place, _ in gains[: self._most_rows - rows]:
            drawn, count = drawn + gain, count + 1
            overhead += look_seconds * (place == -1)
            rate = drawn / (self._seconds(count) + count * seen + overhead)
            if rate > best:
                best, chosen = rate, count - rows
        depths = [0] * len(lookups)
        for _, _, owner in gains[:chosen]:
            depths[owner] += 1
        return depths


def _lookup_of(stream: Stream) -> Lookup:
    if stream.lookup is None:
        stream.lookup = Lookup(stream.segment.context)
    return stream.lookup


def _room(stream: Stream) -> int:
    """How many tokens it may draw besides the next."""
    drawn = stream.num_drawn
    return max(0, (stream.params.max_tokens or drawn) - drawn - 1)
