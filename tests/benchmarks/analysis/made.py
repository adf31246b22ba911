"""Candidates that no model made, and strategies that draw them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from benchmarks.analysis.candidates import Candidates, candidates_of
from benchmarks.analysis.intervals import Floats
from benchmarks.analysis.outcome import Outcome, spent
from benchmarks.samples.sample import Sample, Solution
from tests.helpers.runs import GOLD, sample

answers = st.sampled_from([GOLD, "1", "2", "3", None])


@st.composite
def solutions(draw: st.DrawFn) -> Solution:
    """A candidate of 1 to 12 tokens, some of them cut."""
    answer = draw(answers)
    logprobs = draw(st.lists(st.sampled_from([-0.1, -0.5, -1.0, -2.5]), min_size=1, max_size=12))
    return Solution(
        text="",
        answer=answer,
        correct=answer == GOLD,
        tokens=len(logprobs),
        logprobs=logprobs,
        finish_reason=draw(st.sampled_from(["stop", "stop", "length"])),
    )


@st.composite
def rows(draw: st.DrawFn, least: int = 1, most: int = 6) -> list[list[Solution]]:
    """Candidates of one to three samples, equally many of each."""
    count = draw(st.integers(least, most))
    row = st.lists(solutions(), min_size=count, max_size=count)
    return draw(st.lists(row, min_size=1, max_size=3))


def candidates(every: Sequence[Sequence[Solution]]) -> Candidates:
    """As arrays."""
    return candidates_of([with_candidates(str(i), row) for i, row in enumerate(every)])


def answered(*every: Sequence[str | None]) -> Candidates:
    """Candidates by their answers; a row each sample."""
    return candidates_of([sample(str(i), row, {}) for i, row in enumerate(every)])


def with_candidates(id: str, row: Sequence[Solution]) -> Sample:
    """A problem with these candidates."""
    made = sample(id, [], {})
    made.candidates = list(row)
    return made


def outcome(
    name: str, hits: Sequence[float] | Floats, tokens: Sequence[float] | None = None
) -> Outcome:
    """A method by its hits and total tokens."""
    some = answered(*[["7"]] * len(hits))
    spend = np.array(tokens if tokens is not None else [10.0] * len(hits), float)
    nothing = np.zeros(len(hits))
    cost = spent(some, spend, spend, nothing, nothing)
    return Outcome(name=name, family=name, k=1, hits=np.array(hits, float), cost=cost)
