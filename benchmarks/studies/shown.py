"""Questions about one model and what a refinement is shown: which candidates, whole, how many."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.analysis.intervals import Interval
from benchmarks.studies.claims import MARGIN, Check, Claim, equal, less, more, no_more
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

POOL_NAMES = ("weak", "foreign", "truncated", "corrupted")
POOLS = StudyRun(
    name="pools",
    model="nano",
    weak="nano/read",
    count=400,
    options={
        "k": f"2,3,{K}",
        "methods": "greedy,selfref,mixed",
        "layouts": "linear",
        "pools": ";".join(f"{one}:.25,.5,1" for one in POOL_NAMES),
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
    gains = [one.gain(LINEAR, MAJORITY) for one in (cool, warm)]
    claims = [
        Claim(
            "A weaker model's candidates make refinements worse.",
            "ours",
            [
                less(f"{one:.0%} weak - all own", pools.minus(mixed("weak", one), LINEAR))
                for one in (0.5, 1.0)
            ],
        ),
        *(_harmless(pools, one) for one in POOL_NAMES),
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
            "The gain over majority grows with the candidates' diversity.",
            f"{REVIEWS} ask for temperatures",
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
        for one in POOL_NAMES
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


def _harmless(run: Measured, pool: str) -> Claim:
    difference = run.minus(mixed(pool, 0.5), "selfref linear@2")
    return Claim(
        f"Beside two good candidates two {pool} ones do no harm.",
        f"{REVIEWS} ask for mixed pools",
        [Check(f"two own and two {pool} - two own alone", difference, low=-MARGIN)],
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
        [no_more(f"{whole} - {LINEAR}", run.minus(whole, LINEAR))],
    )
    table = methods_table("Puzzles with thinking", [("nano", run)], [MAJORITY, LINEAR, whole])
    return Answered([claim], [table])


SWEEP = (1, 2, 4, 8, 10, 12, 16)


def _sweep(runs: Runs) -> Answered:
    run = runs["nano"]

    def change(one: str, other: str) -> tuple[str, Interval]:
        return f"{one} - {other}", run.minus(one, other)

    linear = {k: f"selfref linear@{k}" for k in SWEEP}
    branched = {k: f"selfref branched@{k}" for k in SWEEP}
    claims = [
        Claim(
            "More than four candidates help, up to about ten.",
            f"{SECONDARY}: generalises from 4 to 10",
            [more(*change(linear[k], linear[4])) for k in (8, 10)],
        ),
        Claim(
            "Beyond ten candidates refining declines.",
            SECONDARY,
            [less(*change(linear[16], linear[10]))],
        ),
        Claim(
            "At large k refining falls below a majority vote.",
            f"{REVIEWS}, of its figure 4",
            [less(*change(linear[16], "maj@16"))],
        ),
        Claim(
            "The branched layout, which the paper does not have, bears more candidates.",
            "ours",
            [more(*change(branched[k], linear[k])) for k in (10, 16)],
        ),
    ]
    return Answered(claims, [TableOf("Over k", list(_over_k(run)))])


def _over_k(run: Measured) -> Iterator[dict[str, str]]:
    for k in SWEEP:
        row = {"k": str(k)}
        for name in (f"maj@{k}", f"pass@{k}", f"selfref linear@{k}", f"selfref branched@{k}"):
            row[name.partition("@")[0]] = accuracy_and_cost(run, name)
        yield row


SHOWN = (
    Question(
        name="quality",
        title="The quality of the candidates",
        runs=(POOLS, NANO, *map(_temperature_run, TEMPERATURES)),
        answer=_quality,
        limits=(
            "nano learnt from its own candidates alone. It never saw those of other puzzles, cut "
            "ones, or ones whose answer belies their columns. A corrupted candidate has another "
            "answer after columns that stay as they were, so they still say what is right."
        ),
    ),
    Question(
        name="context",
        title="Whole candidates, or only what follows their thinking",
        runs=(THINKING,),
        answer=_context,
        limits=(
            "nano never saw thinking in a draft, so whole candidates are unlike its training, and "
            "the thinking here is two or three sums. A model that learnt from whole candidates "
            "might gain from long thoughts, at the price of reading them."
        ),
    ),
    Question(
        name="sweep",
        title="Many candidates",
        runs=(NANO,),
        answer=_sweep,
        limits=(
            "nano learnt from 1 to 8 candidates, mostly 4, in rows of at most 1,024 tokens. What "
            "declines may be the length rather than the number: 16 candidates in one sequence are "
            "about 1,200 tokens, and positions that no row had. Side by side they reach no new "
            "position, which may be why the branched layout bears them."
        ),
    ),
)
