"""Methods that select among the candidates that were drawn: votes, choices, stops, and bounds.

At k they see the first k candidates, as selfRef@k does, so that differences are paired. Those whose
name says "of n" are means over all choices of k among the n that were drawn.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.analysis.candidates import NOBODY, Candidates, at, vote
from benchmarks.analysis.confidence import stop_candidates
from benchmarks.analysis.first_finish import first_finish
from benchmarks.analysis.intervals import Floats, Ints
from benchmarks.analysis.outcome import Outcome, drawn_cost, spent
from benchmarks.analysis.subsets import mean_best, mean_longest, mean_majority, mean_oracle


def choices(candidates: Candidates, k: int) -> Iterator[Outcome]:
    """The majority, the best by each score, and the bound, of the first k candidates."""
    yield majority_at(candidates, k)
    for by, scores in candidates.scores.items():
        yield best_of(candidates, k, by, scores)
    yield oracle(candidates, k)


def early_stops(candidates: Candidates, k: int) -> Iterator[Outcome]:
    """Votes weighted by confidence, and what stops some of the first k candidates; k above 1."""
    yield from _by_confidence(candidates, k)
    yield first_finish_at(candidates, 1, k)
    if k > 3:
        yield first_finish_at(candidates, k // 2, k)


def pass_at_1(candidates: Candidates) -> Outcome:
    """One candidate: the mean over all that were drawn."""
    tokens = candidates.tokens.mean(axis=1)
    silent = (candidates.group == NOBODY).mean(axis=1)
    cost = spent(candidates, tokens, tokens, candidates.cut.mean(axis=1), silent)
    hits = candidates.correct.mean(axis=1)
    return Outcome(name="pass@1", family="pass@1", k=1, hits=hits, cost=cost)


def majority_at(candidates: Candidates, k: int) -> Outcome:
    """maj@k of the first k: equal answers vote together, right ones do; ties go to the earlier."""
    return _voted(candidates, k, f"maj@{k}", "maj", vote(candidates.group[:, :k]))


def oracle(candidates: Candidates, k: int) -> Outcome:
    """Whether any of the first k is right: no selection among them can be better."""
    cost = drawn_cost(candidates, k, _cut(candidates, k), _silent(candidates, k))
    hits = candidates.correct[:, :k].any(axis=1).astype(float)
    return Outcome(
        name=f"pass@{k} (oracle)", family="pass@k", k=k, hits=hits, cost=cost, oracle=True
    )


def best_of(candidates: Candidates, k: int, by: str, scores: Floats) -> Outcome:
    """The candidate with the highest score of the first k; the earlier one on a tie."""
    best = scores[:, :k].argmax(axis=1)
    silent = (candidates.group[np.arange(len(best)), best] == NOBODY).astype(float)
    return Outcome(
        name=f"best-of-{k} ({by})",
        family=f"best-of-k ({by})",
        k=k,
        hits=at(candidates.correct, best),
        cost=drawn_cost(candidates, k, at(candidates.cut, best), silent),
    )


def first_finish_at(candidates: Candidates, j: int, k: int) -> Outcome:
    """First-Finish j@k."""
    found = first_finish(candidates, j, k)
    cut = np.zeros(len(found.winner))  # who was cut does not vote
    silent = (found.winner == NOBODY).astype(float)
    return Outcome(
        name=f"first-finish {j}@{k}",
        family="first-finish 1@k" if j == 1 else "first-finish k/2@k",
        k=k,
        hits=at(candidates.correct, found.winner),
        cost=spent(candidates, found.tokens, found.steps, cut, silent),
        saved=_saved(candidates, k, found.tokens),
    )


def _by_confidence(candidates: Candidates, k: int) -> Iterator[Outcome]:
    confidence, group = candidates.confidence, candidates.group[:, :k]
    if confidence is None:
        return
    weights = confidence.weights[:, :k]
    winner = vote(group, weights)
    yield _voted(candidates, k, f"weighted@{k} (confidence)", "weighted (confidence)", winner)
    if k < 4:  # too few to be a warm-up for others
        return
    for keep in (0.9, 0.1):
        stopped = stop_candidates(confidence, candidates.tokens[:, :k], k // 2, keep)
        winner = vote(group, np.where(stopped.kept, weights, 0.0))
        cut = (candidates.cut[:, :k] & stopped.kept).sum(axis=1) / stopped.kept.sum(axis=1)
        longest = [part.max(axis=1) for part in np.split(stopped.tokens, [k // 2], axis=1)]
        yield Outcome(
            name=f"stop@{k} (keeps {keep:.0%})",
            family=f"stop (keeps {keep:.0%})",
            k=k,
            hits=at(candidates.correct, winner),
            cost=spent(
                candidates,
                stopped.tokens.sum(axis=1),
                longest[0] + longest[1],
                cut,
                (winner == NOBODY).astype(float),
            ),
            saved=_saved(candidates, k, stopped.tokens),
        )


def _voted(candidates: Candidates, k: int, name: str, family: str, winner: Ints) -> Outcome:
    silent = (winner == NOBODY).astype(float)
    return Outcome(
        name=name,
        family=family,
        k=k,
        hits=at(candidates.correct, winner),
        cost=drawn_cost(candidates, k, _cut(candidates, k), silent),
    )


def _saved(candidates: Candidates, k: int, generated: Ints) -> float:
    whole = candidates.tokens[:, :k].sum()
    return float(1 - generated.sum() / whole) if whole else 0.0


def _cut(candidates: Candidates, k: int) -> Floats:
    share: Floats = candidates.cut[:, :k].mean(axis=1)
    return share


def _silent(candidates: Candidates, k: int) -> Floats:
    silent: Floats = (candidates.group[:, :k] == NOBODY).all(axis=1).astype(float)
    return silent


def mean_majorities(candidates: Candidates) -> list[Outcome]:
    """maj@1 to maj@n, each the mean over all choices of k among the n candidates drawn."""
    hits = mean_majority(candidates)
    return [
        _mean_of_choices(candidates, k, "maj", f"maj@{k}", hits[:, k - 1])
        for k in range(1, candidates.drawn + 1)
    ]


def mean_choices(candidates: Candidates, k: int) -> Iterator[Outcome]:
    """Choices and the bound at k, each the mean over all choices of k among the n drawn."""
    for by, scores in candidates.scores.items():
        hits = mean_best(candidates, scores, k)
        yield _mean_of_choices(candidates, k, f"best-of-k ({by})", f"best-of-{k} ({by})", hits)
    yield mean_bound(candidates, k)


def mean_bound(candidates: Candidates, k: int) -> Outcome:
    """pass@k without bias."""
    hits = mean_oracle(candidates, k)
    return _mean_of_choices(candidates, k, "pass@k", f"pass@{k}", hits, oracle=True)


def _mean_of_choices(
    candidates: Candidates, k: int, family: str, name: str, hits: Floats, oracle: bool = False
) -> Outcome:
    """Shares of cut and of unanswered are those of all that were drawn."""
    n = candidates.drawn
    tokens = k * candidates.tokens.mean(axis=1)
    cost = spent(
        candidates, tokens, mean_longest(candidates, k), _cut(candidates, n), _silent(candidates, n)
    )
    return Outcome(name=f"{name} of {n}", family=family, k=k, hits=hits, cost=cost, oracle=oracle)
