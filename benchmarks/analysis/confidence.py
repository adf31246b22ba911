"""Votes weighted by confidence, and candidates stopped for the lack of it (DeepConf).

After "Deep Think with Confidence" (arXiv 2508.15260). A group is a window of tokens that slides
over a solution, and a solution is as confident as its least confident group. The paper takes a
token's confidence from the log-probabilities of its most likely alternatives. A run stores that of
the drawn token alone, so that one stands here: figures are of this variant, not of the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.analysis.intervals import Bools, Floats, Ints

LONGEST_WINDOW = 2048
"""Tokens of a group in the paper, whose solutions have tens of thousands of tokens."""
NONE = -1e9
"""The log-probability of what is not there."""


@dataclass(frozen=True, slots=True)
class Confidence:
    """How confident candidates are, by sample and candidate.

    Attributes:
        window: tokens of a group.
        running: mean log-probability of each whole window, by its last token. A candidate that is
            shorter than the window is one group; one without tokens has none.
        lowest: of the least confident group; `NONE` without tokens.
    """

    window: int
    running: list[list[Floats]]
    lowest: Floats

    @property
    def weights(self) -> Floats:
        """Of votes: the geometric mean probability of a token in the least confident group."""
        weights: Floats = np.exp(self.lowest)
        return weights


def confidence_of(logprobs: Sequence[Sequence[Floats]]) -> Confidence:
    """The confidence of candidates from the log-probability of each token.

    The window is a quarter of the median candidate, at most 2,048 tokens and at least one.
    """
    median = np.median([len(one) for row in logprobs for one in row])
    window = int(min(LONGEST_WINDOW, max(1, median // 4)))
    running = [[_running(one, window) for one in row] for row in logprobs]
    lowest = np.array([[one.min() if len(one) else NONE for one in row] for row in running])
    return Confidence(window, running, lowest)


def _running(logprobs: Floats, window: int) -> Floats:
    if not len(logprobs):
        return np.zeros(0)
    size = min(window, len(logprobs))
    sums = np.cumsum(np.concatenate([[0.0], logprobs]))
    # Equal windows are equal, whatever stands before them: differences of sums leave bits.
    means: Floats = np.round((sums[size:] - sums[:-size]) / size, 9)
    return means


@dataclass(frozen=True, slots=True)
class Stopped:
    """Candidates of which some were stopped: arrays of samples × candidates.

    Attributes:
        tokens: generated before the end or the stop.
        kept: whether a candidate may vote.
    """

    tokens: Ints
    kept: Bools


def stop_candidates(confidence: Confidence, tokens: Ints, warm_up: int, keep: float) -> Stopped:
    """Stop candidates whose confidence falls below that of the first ones.

    The first `warm_up` candidates are whole. The threshold is the (1 - keep)-quantile of their
    lowest confidence. Each later candidate stops at the first whole window below it. Candidates
    whose lowest confidence is below it do not vote, those of the warm-up included.

    Args:
        confidence: of the candidates, or of more of each sample.
        tokens: of the candidates, samples × candidates.
        warm_up: how many of them come first; at least 1.
        keep: share of the warm-up that passes; .9 is the paper's "high", .1 its "low".
    """
    lowest = confidence.lowest[:, : tokens.shape[1]]
    threshold = np.quantile(lowest[:, :warm_up], 1 - keep, axis=1, keepdims=True)
    kept, left = lowest >= threshold, tokens.copy()
    for sample, index in np.argwhere(~kept):
        if index >= warm_up and tokens[sample, index] >= confidence.window:
            below = confidence.running[sample][index] < threshold[sample]
            left[sample, index] = below.argmax() + confidence.window
    return Stopped(left, kept)
