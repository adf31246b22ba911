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


def window_of(tokens: Ints) -> int:
    """Tokens of a group: a quarter of the median candidate, at most 2,048, at least 1."""
    return int(min(LONGEST_WINDOW, max(1, np.median(tokens) // 4)))


def running_confidence(logprobs: Floats, window: int) -> Floats:
    """Mean log-probability of each whole window, by its last token.

    A solution that is shorter than the window is one group; one without tokens has none.
    """
    if not len(logprobs):
        return np.zeros(0)
    size = min(window, len(logprobs))
    sums = np.cumsum(np.concatenate([[0.0], logprobs]))
    return np.round((sums[size:] - sums[:-size]) / size, 9)  # sums of other tokens leave bits


def lowest_confidence(logprobs: Sequence[Sequence[Floats]], window: int) -> Floats:
    """Of each candidate, by sample, its least confident group; `NONE` without tokens."""
    return np.array(
        [[running_confidence(one, window).min(initial=0.0) if len(one) else NONE for one in row]
         for row in logprobs]
    )


@dataclass(frozen=True, slots=True)
class Stopped:
    """Candidates of which some were stopped: arrays of samples × candidates.

    Attributes:
        tokens: generated before the end or the stop.
        kept: whether a candidate may vote.
        weights: of its vote, exp(lowest confidence).
    """

    tokens: Ints
    kept: Bools
    weights: Floats


def stop_candidates(
    logprobs: Sequence[Sequence[Floats]], warm_up: int, keep: float, window: int
) -> Stopped:
    """Stop candidates whose confidence falls below that of the first ones.

    The first `warm_up` candidates are whole. The threshold is the (1 - keep)-quantile of their
    lowest confidence. Each later candidate stops at the first whole window below it. Candidates
    whose lowest confidence is below it do not vote, those of the warm-up included.

    Args:
        logprobs: of each token, by sample and candidate; equally many candidates of each sample.
        warm_up: how many of them come first; at least 1.
        keep: share of the warm-up that passes; .9 is the paper's "high", .1 its "low".
        window: tokens of a group.
    """
    lowest = lowest_confidence(logprobs, window)
    threshold = np.quantile(lowest[:, :warm_up], 1 - keep, axis=1)
    tokens = np.array([[len(one) for one in row] for row in logprobs])
    for row, limit, lengths in zip(logprobs, threshold, tokens, strict=True):
        for index in range(warm_up, len(row)):
            below = np.flatnonzero(running_confidence(row[index], window) < limit)
            if len(below) and len(row[index]) >= window:
                lengths[index] = below[0] + window
    return Stopped(tokens, lowest >= threshold[:, None], np.exp(lowest))
