"""Why a score is what it is: of every method the shares of cut and unanswered, and the tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.accuracy.results import ProblemResult, Solution
from gsr_engine.outputs import CUT


@dataclass(frozen=True, slots=True)
class Spent:
    """One method over all problems.

    Attributes:
        cut: share of its solutions that were cut, at max_tokens or in a loop: of the candidates
            that it reads the answer from, or of its refinements.
        unanswered: share of the problems that it has no answer for; of pass@1 share of candidates.
        tokens: generated per problem. Those of the candidates that it votes over, chooses from or
            refines count; pass@1 counts one candidate.
    """

    cut: float
    unanswered: float
    tokens: float


def of_candidates(samples: Sequence[ProblemResult], k: int) -> Spent:
    """One candidate alone; as pass@1, the mean over the first k."""
    every = [one for sample in samples for one in sample.candidates[:k]]
    return Spent(_cut(every), _mean(one.answer is None for one in every), _tokens(every))


def of_selection(samples: Sequence[ProblemResult], k: int) -> Spent:
    """A vote over the first k candidates, or a choice among them that knows which is right."""
    chosen = [sample.candidates[:k] for sample in samples]
    return Spent(
        _cut(one for candidates in chosen for one in candidates),
        _mean(all(one.answer is None for one in candidates) for candidates in chosen),
        k * _tokens(one for candidates in chosen for one in candidates),
    )


def of_best(samples: Sequence[ProblemResult], k: int) -> Spent:
    """The likeliest of the first k candidates."""
    best = [max(sample.candidates[:k], key=lambda one: one.logprob) for sample in samples]
    tokens = of_selection(samples, k).tokens
    return Spent(_cut(best), _mean(one.answer is None for one in best), tokens)


def of_greedy(samples: Sequence[ProblemResult]) -> Spent:
    """The direct solution at temperature 0."""
    every = [sample.greedy for sample in samples if sample.greedy is not None]
    return Spent(_cut(every), _mean(one.answer is None for one in every), _tokens(every))


def of_refinement(samples: Sequence[ProblemResult], method: str, k: int) -> Spent:
    """selfRef@k by the name of the method."""
    every = [sample.refinements[method] for sample in samples]
    candidates = of_selection(samples, k).tokens
    return Spent(
        _cut(every), _mean(one.answer is None for one in every), candidates + _tokens(every)
    )


def _cut(solutions: Iterable[Solution]) -> float:
    return _mean(one.finish_reason in CUT for one in solutions)


def _tokens(solutions: Iterable[Solution]) -> float:
    return _mean(one.tokens for one in solutions)


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every) if every else 0.0
