"""Questions about one model and what it is asked: harder, easier, and never seen puzzles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from benchmarks.analysis.intervals import Bools
from benchmarks.samples.sample import Sample
from benchmarks.studies.claims import Claim, more, no_more
from benchmarks.studies.measured import Measured
from benchmarks.studies.question import (
    LINEAR,
    LINEAR_ONLY,
    MAJORITY,
    SECONDARY,
    Answered,
    K,
    Question,
    Runs,
    TableOf,
    methods_table,
)
from benchmarks.studies.runs import StudyRun
from benchmarks.studies.trained import NANO
from gsr_engine.demo.puzzles import Mix

LEVELS = StudyRun(
    name="levels",
    model="nano",
    count=800,
    options={"k": f"{K},{2 * K}", "layouts": "linear"},
)
DIFFICULTIES: dict[str, Callable[[Sample], bool]] = {
    **{
        f"{digits} digits": partial(lambda start, one: one.size.startswith(start), f"{digits}x")
        for digits in Mix().digits
    },
    "two factors": lambda one: "x2" in one.size,
    "three factors": lambda one: "x3" in one.size,
}
"""Parts of the puzzles; each puzzle is in one by its digits and in one by its factors."""


def none_right(run: Measured) -> Iterator[tuple[str, Bools, Bools]]:
    """Of every difficulty its samples, and those of them that have no right candidate."""
    wrong = run.none_right(K)
    for name, holds in DIFFICULTIES.items():
        here = np.array([holds(one) for one in run.run.samples])
        yield name, here, wrong & here


def _levels(runs: Runs) -> Answered:
    """Candidates K+1 to 2K are fresh solutions: no refinement at K read them."""
    run = runs["levels"]
    wrong = run.none_right(K)
    fresh = run.candidates.correct[:, K:].mean(axis=1)
    parts = list(none_right(run))
    repaired = Claim(
        "Where every candidate is wrong a refinement can still be right, at every difficulty.",
        f"{SECONDARY}: AIME24 5.9 %, up to 9 %; every selection has 0 by definition",
        [
            more(f"all: {LINEAR}", run.among(wrong, LINEAR)),
            *(more(f"{name}: {LINEAR}", run.among(few, LINEAR)) for name, _, few in parts),
        ],
    )
    not_fresh = Claim(
        "There it is right more often than one more solution would be.",
        "ours",
        [
            more(f"{LINEAR} - a fresh solution", run.among(wrong, LINEAR, fresh)),
            more(f"{LINEAR} - greedy", run.among(wrong, LINEAR, "greedy")),
        ],
    )
    shown = (LINEAR, f"selfref linear@{2 * K}", "greedy")
    rows = [
        {
            "puzzles of": name,
            "all": f"{int(here.sum()):,}",
            "pass@1": str(run.among(here, "pass@1")),
            "none right": f"{int(few.sum()):,}",
            **{one: str(run.among(few, one) or "–") for one in shown},
        }
        for name, here, few in parts
    ]
    table = TableOf(f"Where none of {K} candidates is right", rows)
    return Answered([repaired, not_fresh], [table])


STRESS = {
    label: StudyRun(
        name=f"stress-{name}", model="nano", puzzles=mix, count=400, options=LINEAR_ONLY
    )
    for label, name, mix in (
        (
            "three factors, products 18 to 64",
            "products",
            Mix(factors=(3,), products=(18, 64)),
        ),
        ("3 to 5 digits", "short", Mix(digits=(3, 4, 5))),
        ("four factors, products 16 to 24", "factors", Mix(factors=(4,), products=(16, 24))),
    )
}
"""Harder puzzles, and two kinds that no row of training has: other lengths, and a fourth line."""


def _stress(runs: Runs) -> Answered:
    of = {label: runs[run.name] for label, run in STRESS.items()}
    harder, *unseen = of.items()
    claims = [
        Claim(
            "The gain over majority holds on harder problems than any in training.",
            "ours",
            [more(f"{harder[0]}: {LINEAR} - {MAJORITY}", harder[1].minus(LINEAR, MAJORITY))],
        ),
        Claim(
            "Where nothing can be solved directly, refining solves nothing either.",
            "ours",
            [no_more(f"{label}: {LINEAR}", one.accuracy(LINEAR)) for label, one in unseen],
        ),
    ]
    rows = [("as trained", runs["nano"]), *of.items()]
    return Answered(claims, [methods_table("Domain stress", rows)])


EASY = {
    f"6 digits, product 6, T={temperature:g}": StudyRun(
        name=f"easy-{temperature:g}",
        model="nano",
        puzzles=Mix(digits=(6,), factors=(2,), products=(6, 6), share_of_sums=0.0),
        options={**LINEAR_ONLY, "temperature": temperature},
    )
    for temperature in (0.3, 1.0)
}
"""The puzzles that nano solves best."""


def _easy(runs: Runs) -> Answered:
    of = {label: runs[run.name] for label, run in EASY.items()}
    claim = Claim(
        "Where pass@1 is high already, refining gains nothing.",
        "ours",
        [
            no_more(f"{label}: {LINEAR} - {MAJORITY}", one.minus(LINEAR, MAJORITY))
            for label, one in of.items()
        ],
    )
    rows = [("all puzzles, T=1", runs["nano"]), *of.items()]
    return Answered([claim], [methods_table("Easy puzzles", rows)])


ASKED = (
    Question(
        name="levels",
        title="No candidate is right, at every difficulty",
        runs=(LEVELS,),
        answer=_levels,
        limits=(
            "A draft that is wrong in one column is right in the others, which a checker can use; "
            "a wrong solution of a competition problem gives less to begin from."
        ),
    ),
    Question(
        name="stress",
        title="Puzzles unlike any in training",
        runs=(NANO, *STRESS.values()),
        answer=_stress,
        limits=(
            "Lengths that no row had are not read at all, and the tokens of a fourth product have "
            "their first weights still: both are beyond nano, not merely hard for it."
        ),
    ),
    Question(
        name="easy",
        title="High pass@1",
        runs=(NANO, *EASY.values()),
        answer=_easy,
        limits="What nano solves best it solves in nine of ten cases; nearer to 1 less is to gain.",
    ),
)
