"""What nano's promises, picture and study compare: selections and refinements by name."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.analysis import selections
from benchmarks.analysis.candidates import candidates_of
from benchmarks.analysis.generations import generated
from benchmarks.analysis.intervals import Bools
from benchmarks.analysis.outcome import Outcome
from benchmarks.samples.folder import Run


def outcomes_of(run: Run, ks: Sequence[int]) -> dict[str, Outcome]:
    """One candidate, votes and choices among the first k for each k, and all that was generated."""
    candidates = candidates_of(run.samples)
    every = [
        selections.pass_at_1(candidates),
        *(one for k in ks for one in selections.choices(candidates, k)),
        *(generated(run, candidates, method) for method in run.methods),
    ]
    return {one.name: one for one in every}


def right_of(run: Run, k: int, count: int) -> Bools:
    """The samples that have so many right ones among their first k candidates."""
    correct = candidates_of(run.samples).correct[:, :k]
    chosen: Bools = correct.sum(axis=1) == count
    return chosen
