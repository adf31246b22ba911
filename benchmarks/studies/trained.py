"""Questions about training: what each objective is for, how far refining carries, and size."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.samples.sample import Sample
from benchmarks.studies.claims import Claim, equal, less, more, no_more
from benchmarks.studies.question import (
    BRANCHED,
    LINEAR,
    LINEAR_ONLY,
    MAJORITY,
    PAPER,
    REVIEWS,
    SECONDARY,
    Answered,
    K,
    Question,
    Runs,
    methods_table,
)
from benchmarks.studies.runs import StudyRun
from gsr_engine.demo.puzzles import Mix

NANOS = f"mixed linear@{K} weak 1.00"
"""A refinement of the candidates that nano drew."""
NANO = StudyRun(
    name="nano",
    model="nano",
    count=1000,
    options={"k": "1,2,4,8,10,12,16", "methods": "greedy,selfref,repeated,orders"},
)
"""The main run: 1,000 puzzles of all kinds, and the whole sweep of k."""
_READS_NANOS = {
    "k": f"1,{K}",
    "methods": "greedy,selfref,mixed",
    "pools": "weak:1",
    "layouts": "linear",
}


def _reading_nanos(name: str, model: str) -> StudyRun:
    """All kinds of puzzles, with its own candidates and with those of the main run."""
    return StudyRun(name=name, model=model, weak="nano", options=_READS_NANOS)


OBJECTIVES = (
    NANO,
    _reading_nanos("early", "direct/read"),
    _reading_nanos("direct", "direct"),
    _reading_nanos("refine", "refine"),
    StudyRun(name="read", model="nano/read", options=LINEAR_ONLY),
)


def _objectives(runs: Runs) -> Answered:
    nano, early, direct, refine = (runs[one] for one in ("nano", "early", "direct", "refine"))
    claims = [
        Claim(
            "A model that learnt both refines better than its candidates' majority.",
            PAPER,
            [
                more(f"hybrid: {one} - {MAJORITY}", nano.minus(one, MAJORITY))
                for one in (LINEAR, BRANCHED)
            ],
        ),
        Claim(
            "So it does beside the vote that takes as many tokens.",
            f"{REVIEWS} ask for matched budgets",
            [
                more(f"hybrid: {one} - {vote}", nano.minus(one, vote))
                for one in (LINEAR, BRANCHED)
                for vote in [nano.vote_within(one)]
            ],
        ),
        Claim(
            "A model that never learnt to refine gains no more than a majority vote.",
            f"{REVIEWS}: selfRef@4 of the base model is comparable to or worse than maj@4",
            [no_more(f"early: {LINEAR} - {MAJORITY}", early.minus(LINEAR, MAJORITY))],
        ),
        Claim(
            "Learning direct solving alone hampers refining.",
            f"notes on the {REVIEWS}: AIME24 45.6 for the hybrid, 37.5 for distillation",
            [
                less(f"direct alone: {LINEAR} - {MAJORITY}", direct.minus(LINEAR, MAJORITY)),
                less(
                    "on the hybrid's candidates: direct alone - hybrid",
                    direct.minus(NANOS, LINEAR, nano),
                ),
                less(
                    f"own candidates: direct alone - hybrid, {LINEAR}",
                    direct.minus(LINEAR, LINEAR, nano),
                ),
            ],
        ),
        Claim(
            "Refinement rows alone refine worse than the hybrid.",
            SECONDARY,
            [
                less(
                    "on the hybrid's candidates: refinement alone - hybrid",
                    refine.minus(NANOS, LINEAR, nano),
                )
            ],
        ),
        Claim(
            "Refinement rows alone make direct solving better.",
            SECONDARY,
            [more("pass@1: after - before", refine.minus("pass@1", "pass@1", runs["read"]))],
        ),
        Claim(
            "The tokens are better spent on both objectives than on direct solving alone.",
            f"{REVIEWS} ask for this control",
            [more(f"hybrid {LINEAR} - direct alone, greedy", nano.minus(LINEAR, "greedy", direct))],
        ),
    ]
    rows = [
        ("hybrid (nano)", nano),
        ("direct alone, 600 steps", early),
        ("direct alone, 1,900 steps", direct),
        ("first stage of nano", runs["read"]),
        ("then refinement alone", refine),
    ]
    theirs = [one for one in rows if NANOS in [m.name for m in one[1].run.methods]]
    return Answered(
        claims,
        [
            methods_table("Own candidates", rows),
            methods_table("Candidates of the hybrid", theirs, [NANOS]),
        ],
    )


FAMILIES: dict[str, Callable[[Sample], bool]] = {
    "two factors (trained)": lambda one: one.size.endswith("x2"),
    "two factors as sums": lambda one: one.size.endswith("x2+"),
    "three factors": lambda one: one.size.endswith("x3"),
    "three factors as sums": lambda one: one.size.endswith("x3+"),
}
_EVERY_FAMILY = Mix(share_of_sums=0.5)


def _over_families(name: str, model: str, weak: str | None) -> StudyRun:
    options = LINEAR_ONLY if weak is None else _READS_NANOS
    return StudyRun(
        name=name, model=model, weak=weak, puzzles=_EVERY_FAMILY, count=600, options=options
    )


def _domains(runs: Runs) -> Answered:
    nano, near, direct = (runs[f"domains-{one}"] for one in ("nano", "near", "direct"))
    gains, losses, without, rows = [], [], [], []
    for name, holds in FAMILIES.items():
        of_nano, of_near, of_direct = (one.only(holds) for one in (nano, near, direct))
        if of_nano is None or of_near is None or of_direct is None:
            continue
        rows += [
            (f"{name}: refinement of all (nano)", of_nano),
            (f"{name}: of two factors alone", of_near),
            (f"{name}: of none (direct alone)", of_direct),
        ]
        if "trained" in name:
            continue
        gains.append(more(f"{name}: {LINEAR} - {MAJORITY}", of_near.minus(LINEAR, MAJORITY)))
        losses.append(
            equal(f"{name}, on nano's candidates: - nano", of_near.minus(NANOS, LINEAR, of_nano))
        )
        without.append(no_more(f"{name}: {LINEAR} - {MAJORITY}", of_direct.minus(LINEAR, MAJORITY)))
    claims = [
        Claim(
            "Refining carries over to problems that it was never trained on.",
            f"{SECONDARY}: Knights and Knaves +7.2 % for GSR-7B, -7.6 % for its base",
            gains,
        ),
        Claim("It does so without a loss against training on all of them.", "ours", losses),
        Claim("A model without refinement rows gains nothing there.", SECONDARY, without),
    ]
    return Answered(
        claims,
        [methods_table("By family", rows)],
    )


def _scale(runs: Runs) -> Answered:
    nano, wide = runs["nano"], runs["wide"]
    of_wide, of_nano = (one.gain(LINEAR, MAJORITY) for one in (wide, nano))
    claims = [
        Claim(
            "A larger student makes more of the same candidates.",
            f"{SECONDARY}: on the 7B model's candidates 14B gains 20.1 %, 32B 13.7 %",
            [
                more("on nano's candidates: wide - nano", wide.minus(NANOS, LINEAR, nano)),
                more(f"on nano's candidates: wide - {MAJORITY}", wide.minus(NANOS, MAJORITY, nano)),
            ],
        ),
        Claim(
            "The gain over majority grows with the model's size.",
            f"{PAPER}, abstract of its second version",
            [
                more(
                    f"({LINEAR} - {MAJORITY}) of wide - of nano",
                    wide.paired(of_wide, nano, of_nano),
                )
            ],
        ),
    ]
    return Answered(
        claims,
        [
            methods_table("Own candidates", [("nano, .6 M", nano), ("wide, 1.3 M", wide)]),
            methods_table("Candidates of nano", [("wide, 1.3 M", wide)], [NANOS]),
        ],
    )


SEEDS = {
    "seed 0 (nano)": NANO,
    "seed 1": StudyRun(name="seed-1", model="seed-1", options=LINEAR_ONLY),
    "seed 2": StudyRun(name="seed-2", model="seed-2", options=LINEAR_ONLY),
}


def _seeds(runs: Runs) -> Answered:
    of = {label: runs[run.name] for label, run in SEEDS.items()}
    claim = Claim(
        "Whatever the seed of training, refining beats the candidates' majority.",
        "ours",
        [
            more(f"{label}: {LINEAR} - {MAJORITY}", one.minus(LINEAR, MAJORITY))
            for label, one in of.items()
        ],
    )
    return Answered([claim], [methods_table("Seeds", list(of.items()))])


RECIPE = {
    "nano": NANO,
    "problem not restated": StudyRun(name="bare", model="bare", options={"k": f"1,{K}"}),
    'refine position "fork"': StudyRun(name="fork", model="fork", options={"k": f"1,{K}"}),
}


def _recipe(runs: Runs) -> Answered:
    of = {label: runs[run.name] for label, run in RECIPE.items()}
    nano, bare, fork = of.values()
    claims = [
        Claim(
            "Restating the problem after the candidates helps the linear layout.",
            "ours",
            [more(f"restated - not, {LINEAR}", nano.minus(LINEAR, LINEAR, bare))],
        ),
        Claim(
            "A branched refinement had better begin after the longest candidate.",
            "ours",
            [more(f"after - fork, {BRANCHED}", nano.minus(BRANCHED, BRANCHED, fork))],
        ),
    ]
    return Answered(claims, [methods_table("One thing changed", list(of.items()))])


TRAINED = (
    Question(
        name="objectives",
        title="Untrained, trained to solve, trained to refine, trained for both",
        runs=OBJECTIVES,
        answer=_objectives,
        limits=(
            "One seed of training. All variants take as many steps, of about as many tokens. A "
            "nano that never saw a draft does not even know the words of the prompt, so "
            "'untrained' is less here than of a chat model, which `prompting` asks."
        ),
    ),
    Question(
        name="domains",
        title="Refinement trained on one family of puzzles, tested on others",
        runs=(
            _over_families("domains-nano", "nano", None),
            _over_families("domains-near", "near", "nano"),
            _over_families("domains-direct", "direct", "nano"),
        ),
        answer=_domains,
        limits=(
            "These domains are near: one alphabet, one way to write a solution, columns that are "
            "checked alike. What is new are a third product per column, and factors that are sums, "
            "which are computed before the part that a refinement reads. The step from mathematics "
            "to Knights and Knaves is far larger. All models learnt to solve all families directly."
        ),
    ),
    Question(
        name="scale",
        title="A larger student, trained on the smaller one's candidates",
        runs=(NANO, _reading_nanos("wide", "wide")),
        answer=_scale,
        limits=(
            "Twice the parameters, one seed, the smaller one's learning rates; the paper goes from "
            "7B to 32B. The larger one never saw candidates of its own, and solves no better "
            "alone: it is a wider student, hardly a stronger one."
        ),
    ),
    Question(
        name="seeds",
        title="Three seeds of the whole training",
        runs=tuple(SEEDS.values()),
        answer=_seeds,
        limits="Seeds differ in first weights, puzzles and draws; the puzzles asked are the same.",
    ),
    Question(
        name="recipe",
        title="What nano owes to the restated problem, and to positions",
        runs=tuple(RECIPE.values()),
        answer=_recipe,
        limits="One seed of each change.",
    ),
)
