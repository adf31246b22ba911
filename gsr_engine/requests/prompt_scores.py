"""The log-probabilities of a prompt's tokens, while they are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gsr_engine.outputs import PromptLogprobs, TopLogprobs

Score = tuple[float, TopLogprobs | None]
"""The log-probability of one token, and the most likely tokens in its place, if any are wanted."""


class PromptScores:
    """What is known so far: the scores of a prompt's first tokens, each taken exactly once.

    Attributes:
        num_top: how many of the most likely tokens are wanted beside each token.
        num_known: for how many tokens it is settled; the first has nothing before it, and no score.
    """

    def __init__(self, num_top: int) -> None:
        self.num_top = num_top
        self._logprobs: list[float | None] = [None]
        self._tops: list[TopLogprobs | None] = [None]

    @property
    def num_known(self) -> int:
        """See above."""
        return len(self._logprobs)

    def take(self, start: int, scores: Sequence[Score]) -> bool:
        """Take the scores of tokens from `start` on; those that are known already stay.

        Returns whether all of them are finite; otherwise none is taken.
        """
        if not all(math.isfinite(logprob) for logprob, _ in scores):
            return False
        for logprob, top in scores[self.num_known - start :]:
            self._logprobs.append(logprob)
            self._tops.append(top)
        return True

    def result(self) -> PromptLogprobs:
        """What is known."""
        tops = list(self._tops) if self.num_top else None
        return PromptLogprobs(list(self._logprobs), tops)
