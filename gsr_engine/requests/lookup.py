"""Lookup: what may follow the end of a stream, found where its last tokens stood before."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from gsr_engine.kv.segments import Context

_LONGEST = 4
"""Tokens of a match: longer ones propose no better on the outputs that were tried."""
_MOST_PLACES = 16
"""Places that vote; the latest count."""
_FADING = 0.85
"""Weight of all earlier trials when one more counts: about the last seven make the rate."""
_HOPE = 0.5
"""Share of proposed tokens that a new stream is believed to accept."""


class Lookup:
    """Reads what a stream sees and writes, and proposes its next tokens.

    A stream sees the spans of its context, whether they are its own prompt or candidates that
    others wrote, and its own tokens. Of all places that its last tokens also stand at, those with
    the longest match are kept. What followed there is proposed token by token: the most frequent
    one goes on, the latest of equals, and places where another token followed drop out.

    Attributes:
        proposal: what the last `follow` proposed.
        acceptance: an estimate of how likely a proposed token is right if those before it are. It
            follows the stream's own tokens, also while none of the proposals is computed.
    """

    def __init__(self, context: Context) -> None:
        # A token of its own before each text: no match may run from one text into another.
        parts: list[Sequence[int]] = [range(-_LONGEST, 0)]
        for index, span in enumerate(context):
            parts += [(-1 - _LONGEST - index,), span.token_ids]
        self._tokens = np.array([*chain.from_iterable(parts)], dtype=np.int32)
        self._length = len(self._tokens)
        self._taken = 0  # how many of the stream's own tokens are among them
        self.proposal: list[int] = []
        self.acceptance = _HOPE

    @property
    def length(self) -> int:
        """About how many tokens the stream sees."""
        return self._length

    def follow(self, token_ids: list[int], most: int) -> None:
        """Read what the stream has drawn since the last call, and propose at most `most` tokens.

        Args:
            token_ids: all tokens of the stream.
            most: tokens wanted.
        """
        new = token_ids[self._taken :]
        if not new:
            return
        self._judge(new)
        self._append(new)
        self._taken = len(token_ids)
        self.proposal = self._propose(most)

    def _judge(self, new: list[int]) -> None:
        """Compare the last proposal with what was drawn, up to the first difference."""
        for proposed, drawn in zip(self.proposal, new, strict=False):
            right = proposed == drawn
            self.acceptance = _FADING * self.acceptance + (1 - _FADING) * right
            if not right:
                break

    def _append(self, new: list[int]) -> None:
        length = self._length + len(new)
        if length > len(self._tokens):
            grown = np.empty(2 * length, dtype=np.int32)
            grown[: self._length] = self._tokens[: self._length]
            self._tokens = grown
        self._tokens[self._length : length] = new
        self._length = length

    def _propose(self, most: int) -> list[int]:
        tokens, last = self._tokens, self._length - 1
        ends = np.flatnonzero(tokens[:last] == tokens[last])
        for back in range(1, _LONGEST):
            longer = ends[tokens[ends - back] == tokens[last - back]]
            if not len(longer):
                break
            ends = longer
        latest_first = ends[: -_MOST_PLACES - 1 : -1].tolist()
        known = tokens[: self._length]
        return _vote([known[end + 1 : end + 1 + most].tolist() for end in latest_first])


def _vote(texts: list[list[int]]) -> list[int]:
    """The most frequent beginning of some texts, token by token; the first of equals."""
    chosen: list[int] = []
    while texts := [text for text in texts if len(text) > len(chosen)]:
        at = len(chosen)
        votes: dict[int, int] = {}
        for text in texts:
            votes[text[at]] = votes.get(text[at], 0) + 1
        token = max(votes, key=votes.__getitem__)
        if token < 0:  # the end of a text
            break
        chosen.append(token)
        texts = [text for text in texts if text[at] == token]
    return chosen
