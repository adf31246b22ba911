"""Questions about one trained model: what its candidates are like, how many, and what is asked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.studies.claims import MARGIN, Check, Claim, equal, less, more
from benchmarks.studies.measured import Measured
from benchmarks.studies.question import (
    BRANCHED,
    LINEAR,
    LINEAR_ONLY,
    MAJORITY,
    REVIEWS,
    SECONDARY,
    Answered,
    K,
    Question,
    Runs,
    TableOf,
    accuracy_and_cost,
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


def _levels(runs: Runs) -> Answered:
    """Candidates K+1 to 2K are fresh solutions: no refinement at K read them."""
    run = runs["levels"]
    wrong = run.none_right(K)
    fresh = run.candidates.correct[:, K:].mean(axis=1)
    checks = [
        more(f"none of {K} right: {LINEAR}", run.among(wrong, LINEAR)),
        more(f"none of {K} right: {LINEAR} - a fresh solution", run.among(wrong, LINEAR, fresh)),
        more(f"none of {K} right: {LINEAR} - greedy", run.among(wrong, LINEAR, "greedy")),
    ]
    rows = []
    for level in sorted({one.size for one in run.run.samples}, key=level_of):
        here = np.array([one.size == level for one in run.run.samples])
        few = wrong & here
        rows.append(
            {
                "digits x factors": level,
                "puzzles": f"{int(here.sum()):,}",
                "pass@1": str(run.among(here, "pass@1")),
                "none right": f"{int(few.sum()):,}",
                **{name: str(run.among(few, name) or "–") for name in (LINEAR, "greedy")},
            }
        )
        if few.sum() >= 20:
            checks.append(more(f"{level}, none right: {LINEAR}", run.among(few, LINEAR)))
    claim = Claim(
        "Where every candidate is wrong a refinement can still be right, at every difficulty.",
        f"{SECONDARY}: AIME24 5.9 %, up to 9 %; every selection has 0 by definition",
        checks,
    )
    return Answered([claim], [TableOf(f"Where none of {K} candidates is right", rows)])


def level_of(size: str) -> tuple[str, int]:
    """By what sizes are sorted: factors, then digits."""
    digits, _, factors = size.partition("x")
    return factors, int(digits)


POOLS = StudyRun(
    name="pools",
    model="nano",
    weak="nano/read",
    count=400,
    options={
        "k": f"2,3,{K}",
        "methods": "greedy,selfref,mixed",
        "layouts": "linear",
        "pools": ";".join(
            f"{one}:.25,.5,1" for one in ("weak", "foreign", "truncated", "corrupted")
        ),
    },
)
_REPEATED = {LINEAR: f"repeated linear@{K}", BRANCHED: f"repeated branched@{K}"}
_ORDERS = [f"orders linear@{K} #{order}" for order in (1, 2, 3)]
TEMPERATURES = (0.5, 0.7, 1.3)


def _temperature_run(temperature: float) -> StudyRun:
    options = {**LINEAR_ONLY, "temperature": temperature}
    return StudyRun(name=f"temperature-{temperature:g}", model="nano", options=options)


def _quality(runs: Runs) -> Answered:
    pools, warm, cool = runs["pools"], runs["nano"], runs["temperature-0.5"]
    names = ("weak", "foreign", "truncated", "corrupted")
    worse = [less(f"half {one} - all own", pools.minus(mixed(one, 0.5), LINEAR)) for one in names]
    harmless = [
        Check(
            f"two own and two {one} - two own alone",
            pools.minus(mixed(one, 0.5), "selfref linear@2"),
            low=-MARGIN,
        )
        for one in names
    ]
    gains = [one.gain(LINEAR, MAJORITY) for one in (cool, warm)]
    claims = [
        Claim("Worse candidates make worse refinements.", "ours", worse),
        Claim(
            "Different candidates help more than one of them repeated.",
            "ours",
            [more(f"{one} - {again}", warm.minus(one, again)) for one, again in _REPEATED.items()],
        ),
        Claim(
            "The order of the candidates does not matter.",
            f"{SECONDARY}: shuffled in training",
            [equal(f"{one} - {LINEAR}", warm.minus(one, LINEAR)) for one in _ORDERS],
        ),
        Claim(
            "Bad candidates do no harm beside good ones: they are told apart.", REVIEWS, harmless
        ),
        Claim(
            "The gain over majority grows with the candidates' diversity.",
            REVIEWS,
            [
                more(
                    f"({LINEAR} - {MAJORITY}) at T=1 - at T=0.5",
                    warm.paired(gains[1], cool, gains[0]),
                )
            ],
        ),
    ]
    shares = [
        {
            "pool": one,
            **{
                f"{share:.0%}": str(pools.accuracy(mixed(one, share))) for share in (0.25, 0.5, 1.0)
            },
        }
        for one in names
    ]
    own = [f"selfref linear@{k}" for k in (2, 3, K)]
    by_temperature = [(f"T={t:g}", runs[_temperature_run(t).name]) for t in TEMPERATURES]
    by_temperature.insert(2, ("T=1", warm))
    return Answered(
        claims,
        [
            TableOf(f"{LINEAR}, by the share of its candidates that others replace", shares),
            methods_table("Own candidates alone", [("nano", pools)], own),
            methods_table("One candidate repeated", [("nano", warm)], [*_REPEATED.values()]),
            methods_table("Other orders", [("nano", warm)], [LINEAR, *_ORDERS]),
            methods_table("Temperature of the candidates", by_temperature),
        ],
    )


def mixed(pool: str, share: float) -> str:
    """The name of the refinement of candidates of which a share comes from another pool."""
    return f"mixed linear@{K} {pool} {f'{share:.2f}'.removeprefix('0')}"


THINKING = StudyRun(
    name="thinking",
    model="nano",
    puzzles=Mix(share_of_sums=1.0),
    options={**LINEAR_ONLY, "k": str(K), "methods": "greedy,selfref,views"},
)


def _context(runs: Runs) -> Answered:
    run = runs["thinking"]
    whole = f"views linear@{K}"
    claim = Claim(
        "The part after the thinking is context enough: whole candidates add nothing.",
        f"{SECONDARY}: only summaries are read",
        [equal(f"{whole} - {LINEAR}", run.minus(whole, LINEAR))],
    )
    table = methods_table("Puzzles with thinking", [("nano", run)], [MAJORITY, LINEAR, whole])
    return Answered([claim], [table])


STRESS = {
    "fewer digits (3 to 5)": StudyRun(
        name="stress-short",
        model="nano",
        puzzles=Mix(digits=(3, 4, 5)),
        count=400,
        options=LINEAR_ONLY,
    ),
    "larger products (three factors, 18 to 64)": StudyRun(
        name="stress-products",
        model="nano",
        puzzles=Mix(factors=(3,), products=(18, 64)),
        count=400,
        options=LINEAR_ONLY,
    ),
    "four factors (products 16 to 24)": StudyRun(
        name="stress-factors",
        model="nano",
        puzzles=Mix(factors=(4,), products=(16, 24)),
        count=400,
        options=LINEAR_ONLY,
    ),
}


def _stress(runs: Runs) -> Answered:
    of = {label: runs[run.name] for label, run in STRESS.items()}
    claim = Claim(
        "The gain over majority holds on problems unlike any in training.",
        f"{REVIEWS} ask for stress tests",
        [
            more(f"{label}: {LINEAR} - {MAJORITY}", one.minus(LINEAR, MAJORITY))
            for label, one in of.items()
        ],
    )
    rows = [("as trained", runs["nano"]), *of.items()]
    return Answered([claim], [methods_table("Domain stress", rows)])


SWEEP = (1, 2, 4, 8, 10, 12, 16)


def _sweep(runs: Runs) -> Answered:
    run = runs["nano"]
    layouts = ("linear", "branched")

    def change(layout: str, k: int, than: int) -> tuple[str, str, str]:
        one, other = f"selfref {layout}@{k}", f"selfref {layout}@{than}"
        return f"{one} - @{than}", one, other

    rising = [change(one, 8, 4) for one in layouts]
    falling = [change(one, 16, 10) for one in layouts]
    claims = [
        Claim(
            "More candidates help beyond the numbers trained most, up to about ten.",
            f"{SECONDARY}: generalises from 4 to 10",
            [more(text, run.minus(one, other)) for text, one, other in rising],
        ),
        Claim(
            "Beyond ten candidates refining declines.",
            SECONDARY,
            [less(text, run.minus(one, other)) for text, one, other in falling],
        ),
        Claim(
            "At large k refining falls below a majority vote.",
            f"{REVIEWS}, of its figure 4",
            [
                less(f"selfref {one}@16 - maj@16", run.minus(f"selfref {one}@16", "maj@16"))
                for one in layouts
            ],
        ),
    ]
    return Answered(claims, [TableOf("Over k", list(_over_k(run)))])


def _over_k(run: Measured) -> Iterator[dict[str, str]]:
    for k in SWEEP:
        row = {"k": str(k)}
        for name in (f"maj@{k}", f"pass@{k}", f"selfref linear@{k}", f"selfref branched@{k}"):
            row[name.partition("@")[0]] = accuracy_and_cost(run, name)
        yield row


EASY = {
    f"6 digits, two factors, T={temperature:g}": StudyRun(
        name=f"easy-{temperature:g}",
        model="nano",
        puzzles=Mix(digits=(6,), factors=(2,), share_of_sums=0.0),
        options={**LINEAR_ONLY, "temperature": temperature},
    )
    for temperature in (0.3, 1.0)
}


def _easy(runs: Runs) -> Answered:
    of = {label: runs[run.name] for label, run in EASY.items()}
    cold = of[next(iter(of))]
    claim = Claim(
        "Where pass@1 is high already, refining gains nothing.",
        REVIEWS,
        [equal(f"T=0.3: {LINEAR} - {MAJORITY}", cold.minus(LINEAR, MAJORITY))],
    )
    rows = [("all puzzles, T=1", runs["nano"]), *of.items()]
    return Answered([claim], [methods_table("Easy puzzles", rows)])


INFERRED = (
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
        name="quality",
        title="The quality of the candidates",
        runs=(POOLS, NANO, *map(_temperature_run, TEMPERATURES)),
        answer=_quality,
        limits=(
            "nano learnt from its own candidates alone. It never saw those of other puzzles, cut "
            "ones, or ones whose answer belies their columns."
        ),
    ),
    Question(
        name="context",
        title="Whole candidates, or only what follows their thinking",
        runs=(THINKING,),
        answer=_context,
        limits=(
            "nano never saw thinking in a draft, and the thinking here is two or three sums. Of a "
            "long chain of thought more would be lost, and more would have to be read."
        ),
    ),
    Question(
        name="stress",
        title="Puzzles unlike any in training",
        runs=(NANO, *STRESS.values()),
        answer=_stress,
        limits="The tokens of a fourth factor and of its products have their first weights still.",
    ),
    Question(
        name="sweep",
        title="Many candidates",
        runs=(NANO,),
        answer=_sweep,
        limits="nano learnt from 1 to 8 candidates, mostly 4. Each k reads the first k of 16.",
    ),
    Question(
        name="easy",
        title="High pass@1",
        runs=(NANO, *EASY.values()),
        answer=_easy,
        limits="Accuracies near 1 leave both methods little room; that is the claim.",
    ),
)
