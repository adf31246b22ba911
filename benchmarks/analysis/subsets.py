"""Exact means over all choices of k among the n candidates drawn."""

from __future__ import annotations

from functools import cache
from math import comb

import numpy as np

from benchmarks.analysis.candidates import NOBODY, Candidates
from benchmarks.analysis.intervals import Floats


def mean_oracle(candidates: Candidates, k: int) -> Floats:
    """pass@k without bias: the share of choices of k with a right one.

    1 - C(n-c, k) / C(n, k) for c right ones of n (Chen et al. 2021, arXiv 2107.03374, equation 1).
    The binomials are exact integers.
    """
    drawn = candidates.drawn
    chances = [1 - comb(drawn - right, k) / comb(drawn, k) for right in range(drawn + 1)]
    hits: Floats = np.array(chances)[candidates.correct.sum(axis=1)]
    return hits


def mean_majority(candidates: Candidates) -> Floats:
    """How often the majority of k candidates is right, over all choices of k and all orders.

    Of t groups that tie, each appears first in the same share of orders, so a tie counts 1/t.

    Returns:
        Samples × k; column k - 1 is maj@k.
    """
    rows = []
    for group, correct in zip(candidates.group, candidates.correct, strict=True):
        silent = int((group == NOBODY).sum())
        wrong = np.bincount(group[(group != NOBODY) & ~correct])
        sizes = tuple(sorted(int(size) for size in wrong if size))
        rows.append(_win_chances(int(correct.sum()), sizes, silent))
    return np.array(rows)


@cache
def _win_chances(right: int, wrong: tuple[int, ...], silent: int) -> tuple[float, ...]:
    """By k the chance that the right group wins, from the sizes of all groups.

    For each number of right votes it counts the ways to draw all others so that no group has more;
    `ways[t][d]` of them draw d others, and t wrong groups have as many as the right one.
    """
    drawn = right + sum(wrong) + silent
    won = np.zeros(drawn + 1)
    for votes in range(1, right + 1):
        ways = [np.array([float(comb(silent, d)) for d in range(silent + 1)])]
        for size in wrong:
            less = np.array([float(comb(size, d)) for d in range(min(votes, size + 1))])
            grown = [np.convolve(one, less) for one in ways]
            if size >= votes:
                tied = np.zeros(votes + 1)
                tied[votes] = comb(size, votes)
                grown = _added(grown, [np.zeros(1), *(np.convolve(one, tied) for one in ways)])
            ways = grown
        for ties, one in enumerate(ways):
            won[votes : votes + len(one)] += comb(right, votes) * one / (ties + 1)
    chances = [won[k] / comb(drawn, k) for k in range(1, drawn + 1)]
    return tuple(round(float(chance), 12) for chance in chances)  # sums that miss 1 by a bit


def _added(left: list[Floats], right: list[Floats]) -> list[Floats]:
    """Sums of polynomials, which may be of different degrees and numbers."""
    out = []
    for index in range(max(len(left), len(right))):
        both = [one[index] for one in (left, right) if index < len(one)]
        total = np.zeros(max(map(len, both)))
        for one in both:
            total[: len(one)] += one
        out.append(total)
    return out


def mean_best(candidates: Candidates, scores: Floats, k: int) -> Floats:
    """How often the candidate with the highest score of k is right; the earlier one on a tie."""
    order = np.argsort(-scores, axis=1, kind="stable")
    drawn = candidates.drawn
    # The one at rank r is the best of a choice if the other k - 1 are among those behind it.
    chances = np.array([comb(drawn - 1 - rank, k - 1) / comb(drawn, k) for rank in range(drawn)])
    hits: Floats = np.take_along_axis(candidates.correct, order, axis=1) @ chances
    return hits


def mean_longest(candidates: Candidates, k: int) -> Floats:
    """Tokens of the longest of k candidates."""
    drawn = candidates.drawn
    chances = np.array([comb(rank, k - 1) / comb(drawn, k) for rank in range(drawn)])
    tokens: Floats = np.sort(candidates.tokens, axis=1) @ chances
    return tokens
