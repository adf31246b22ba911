"""What a cell's answers say: latencies, rates, and accuracy beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from benchmarks.analysis.intervals import Floats, Interval, Resampling
from benchmarks.latency.cell import Cell, Measured
from benchmarks.latency.timed_answer import TimedAnswer
from benchmarks.steadiness import TOLERANCE

PHASES = ("waiting", "candidates", "reading", "refining")
"""The names of `TimedAnswer.phases`."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds that half, nine tenths and 99 of 100 answers take at most."""

    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        """Between two values linearly, as numpy has it."""
        return cls(*(float(one) for one in np.quantile(values, (0.5, 0.9, 0.99))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grades:
    """How often the answers of a cell are right; intervals are clustered by problem.

    Attributes:
        pass_at_1: mean over the candidates.
        majority: maj@k; its answer is there once the last candidate ended.
        selfref: the refinement.
        gain: of the refinement over that of the smallest k of the same system, work and load,
            problem by problem; None for the smallest k itself.
        right_per_second: right answers.
        good_per_second: right answers within the deadline; None without one.
    """

    pass_at_1: Interval
    majority: Interval
    selfref: Interval
    gain: Interval | None
    right_per_second: float
    good_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of a cell. Times are in seconds after a problem arrived, p50 unless they say.

    Attributes:
        cell: which; the figures are those of its fastest round, by the mean to the answer over the
            tokens generated: a busy machine makes no round faster, and a round of shorter draws is
            not faster (a system without seeds draws anew in each).
        spread: the slowest round over the fastest, by the same.
        rounds: how many there are.
        count: answers of a round.
        first_token: of any candidate (TTFT).
        voted: until the last candidate ended, when a vote or a selection could answer.
        first_refined: token of the refinement.
        answered: until the end of the refinement.
        phases: means, by the names of `PHASES`; they add up to the mean of `answered`.
        candidate_tpot, refine_tpot: per token after the first of its stream; None if no stream has
            two tokens.
        answers_per_second, tokens_per_second: over the whole time; generated tokens.
        goodput: answers within the deadline, per second; None without a deadline.
        generated: tokens per answer.
        computed: tokens per answer that went through the model, prompts included; None if the
            system does not tell.
        peak_pages: as of `Measured`.
        busy: others used the machine, also in that round.
        grades: None if nothing is graded.
    """

    cell: Cell
    spread: float
    rounds: int
    count: int
    first_token: float
    voted: float
    first_refined: float
    answered: Quantiles
    phases: dict[str, float]
    candidate_tpot: float | None
    refine_tpot: float | None
    answers_per_second: float
    tokens_per_second: float
    goodput: float | None
    generated: float
    computed: float | None
    peak_pages: int | None
    busy: bool
    grades: Grades | None


def figures(measured: Sequence[Measured], deadline: float | None) -> list[Figures]:
    """The figures of some cells, in the order in which these come first.

    Args:
        measured: what they gave, in one round or more. Cells with the same problems are compared
            problem by problem.
        deadline: seconds after which an answer is worth nothing; None for no such deadline.
    """
    steady = min((one.product_seconds for one in measured), default=0.0) * TOLERANCE
    rounds: dict[Cell, list[Measured]] = {}
    for one in measured:
        rounds.setdefault(replace(one.cell, round=0), []).append(one)
    best = {cell: sorted(every, key=_seconds_per_token) for cell, every in rounds.items()}
    smallest: dict[Cell, Measured] = {}
    for cell in sorted(best, key=lambda cell: cell.k):
        smallest.setdefault(replace(cell, k=0), best[cell][0])
    return [
        _figures(every, smallest[replace(cell, k=0)], deadline, steady)
        for cell, every in best.items()
    ]


def _seconds_per_token(measured: Measured) -> float:
    answers = measured.answers
    tokens = sum(one.candidate_tokens + one.refine_tokens for one in answers)
    return sum(one.refined_last for one in answers) / tokens


def _figures(
    rounds: Sequence[Measured], smallest: Measured, deadline: float | None, steady: float
) -> Figures:
    """Of the first of the rounds, which are sorted."""
    measured = rounds[0]
    answers, elapsed = measured.answers, measured.elapsed
    generated = [one.candidate_tokens + one.refine_tokens for one in answers]
    computed = [one.computed_tokens for one in answers if one.computed_tokens is not None]
    phases = zip(*(one.phases for one in answers), strict=True)
    return Figures(
        cell=replace(measured.cell, round=0),
        spread=_seconds_per_token(rounds[-1]) / _seconds_per_token(measured),
        rounds=len(rounds),
        count=len(answers),
        first_token=_median(min(one.firsts) for one in answers),
        voted=_median(max(one.lasts) for one in answers),
        first_refined=_median(one.refined_first for one in answers),
        answered=Quantiles.of([one.refined_last for one in answers]),
        phases=dict(zip(PHASES, map(fmean, phases), strict=True)),
        candidate_tpot=_median_of_known(one.candidate_tpot for one in answers),
        refine_tpot=_median_of_known(one.refine_tpot for one in answers),
        answers_per_second=len(answers) / elapsed,
        tokens_per_second=sum(generated) / elapsed,
        goodput=None if deadline is None else len(_in_time(answers, deadline)) / elapsed,
        generated=fmean(generated),
        computed=fmean(computed) if len(computed) == len(answers) else None,
        peak_pages=measured.peak_pages,
        busy=measured.product_seconds > steady,
        grades=_grades(measured, smallest, deadline),
    )


def _grades(measured: Measured, smallest: Measured, deadline: float | None) -> Grades | None:
    answers, elapsed = measured.answers, measured.elapsed
    if any(one.correct is None for one in answers):
        return None
    drawn = Resampling(range(len(answers)))
    refined = _values(bool(one.correct) for one in answers)
    right = [one for one in answers if one.correct]
    gain = None
    if smallest is not measured:
        gain = refined - _values(bool(one.correct) for one in smallest.answers)
    return Grades(
        pass_at_1=drawn.mean(_values(fmean(one.candidates_correct) for one in answers)),
        majority=drawn.mean(_values(one.majority_correct for one in answers)),
        selfref=drawn.mean(refined),
        gain=None if gain is None else drawn.mean(gain),
        right_per_second=len(right) / elapsed,
        good_per_second=None if deadline is None else len(_in_time(right, deadline)) / elapsed,
    )


def _in_time(answers: Sequence[TimedAnswer], deadline: float) -> list[TimedAnswer]:
    return [one for one in answers if one.refined_last <= deadline]


def _values(values: Iterable[float]) -> Floats:
    return np.array(list(values), dtype=np.float64)


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def _median_of_known(values: Iterable[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return _median(known) if known else None
