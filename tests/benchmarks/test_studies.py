"""The studies: what a variant learns from, what a run asks, and when a claim reproduces."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.analysis.intervals import Interval
from benchmarks.samples.folder import Run, write_run
from benchmarks.samples.method import Method
from benchmarks.samples.sample import Answer
from benchmarks.studies.__main__ import QUESTIONS, chosen, write_report
from benchmarks.studies.claims import Check, Claim, equal, less, more, no_more
from benchmarks.studies.measured import Measured
from benchmarks.studies.question import LINEAR, MAJORITY
from benchmarks.studies.runs import StudyRun
from benchmarks.studies.times_tables import TASK
from benchmarks.studies.trained import NANO
from benchmarks.studies.variants import TRAINED_FAMILY, variants
from benchmarks.tasks.task import Source
from gsr_engine.demo.puzzles import Mix, sample_puzzles, stream_of
from gsr_engine.errors import InvalidRequest
from gsr_engine.params import LAYOUTS
from tests.helpers.runs import GREEDY, run_of, sample

REFINED = Method(name=LINEAR, kind="selfref", layout="linear", k=4)


def test_an_objective_alone_has_no_rows_of_the_other() -> None:
    recipes = {name: one.recipe for name, one in variants().items()}
    nano = recipes["nano"]
    assert all(stage.refine == 0 for stage in recipes["direct"].stages)
    assert recipes["refine"].stages[0] == nano.stages[0]
    assert all(stage.direct == 0 for stage in recipes["refine"].stages[1:])
    for name in ("direct", "refine"):
        for mine, shipped in zip(recipes[name].stages, nano.stages, strict=True):
            tokens = mine.direct + 4 * mine.refine  # a refinement row is four direct rows long
            assert abs(tokens - (shipped.direct + 4 * shipped.refine)) <= 3
            assert (mine.steps, mine.lr, mine.final_lr) == (
                shipped.steps,
                shipped.lr,
                shipped.final_lr,
            )


def test_every_other_variant_changes_one_thing() -> None:
    recipes = {name: asdict(one.recipe) for name, one in variants().items()}
    nano = recipes["nano"]
    changed = {
        name: {field for field in recipe if recipe[field] != nano[field]}
        for name, recipe in recipes.items()
    }
    assert changed["wide"] == {"width"}
    assert changed["seed-1"] == changed["seed-2"] == {"seed"}
    assert changed["bare"] == changed["fork"] == {"gsr"}
    assert changed["near"] == {"refined", "stages"}


def test_models_are_made_of_those_that_exist() -> None:
    known = variants()
    for variant in known.values():
        assert {variant.data_of, variant.begins_as} - {None} <= known.keys()
        if variant.begins_as:
            other = known[variant.begins_as].recipe
            mine = variant.recipe
            assert (mine.stages[0], mine.gsr, mine.seed) == (
                other.stages[0],
                other.gsr,
                other.seed,
            )


@settings(max_examples=10)
@given(st.integers(0, 50))
def test_a_mix_holds_what_it_draws(seed: int) -> None:
    mixes = [Mix(), TRAINED_FAMILY, Mix(share_of_sums=1.0), Mix(factors=(4,), products=(16, 24))]
    for mix in mixes:
        for puzzle in sample_puzzles("test", seed, 10, mix):
            assert mix.holds(puzzle)
            family = len(puzzle.factors) == 2 and puzzle.sums is None
            assert TRAINED_FAMILY.holds(puzzle) == (family and mix is not mixes[3])


def test_runs_ask_puzzles_that_nothing_is_trained_on() -> None:
    runs = {run.name: run for one in QUESTIONS.values() for run in one.runs}
    for question in QUESTIONS.values():
        for run in question.runs:
            assert runs[run.name] == run  # one name, one run
            run.config()
    few = StudyRun(name="few", model="nano", puzzles=Mix(factors=(4,), products=(16, 24)), count=5)
    for problem, puzzle in zip(
        few.problems(), sample_puzzles("test", 90211, 5, few.puzzles), strict=True
    ):
        assert problem.text == puzzle.problem
        assert stream_of(puzzle) == "test"
    assert len(NANO.problems()) == 1000


def test_the_task_of_the_chat_model() -> None:
    problems = TASK.load(Source())
    assert len({one.id for one in problems}) == len(problems) == 242
    for one in problems:
        left, word, right = one.id.split()
        found = int(left) + int(right) if word == "plus" else int(left) * int(right)
        assert one.gold == str(found)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.05, "reproduces"),
        (-0.05, -0.01, "does not reproduce"),
        (-0.01, 0.05, "cannot be said"),
        (0.0, 0.0, "does not reproduce"),
    ],
)
def test_a_claim_of_more(low: float, high: float, verdict: str) -> None:
    assert more("", Interval((low + high) / 2, low, high)).verdict == verdict


@given(st.floats(-0.2, 0.2), st.floats(0.0, 0.2))
def test_verdicts_are_about_where_the_interval_lies(low: float, width: float) -> None:
    found = Interval(low + width / 2, low, low + width)
    for check in (more("", found), less("", found), no_more("", found), equal("", found)):
        inside = [
            (check.low is None or check.low < value) and (check.high is None or value < check.high)
            for value in (found.low + width * step / 50 for step in range(51))
        ]
        if check.verdict == "reproduces":
            assert all(inside)
        if check.verdict == "does not reproduce":
            assert not any(inside[1:-1])  # at its ends it may touch
        if all(inside):
            assert check.verdict != "does not reproduce"


def test_a_claim_needs_all_of_its_checks() -> None:
    yes, no = more("", Interval(0.2, 0.1, 0.3)), less("", Interval(0.2, 0.1, 0.3))
    maybe, nothing = more("", Interval(0.1, -0.1, 0.3)), more("", None)

    def verdict(*checks: Check) -> str:
        return Claim("", "", checks).verdict

    assert verdict(yes, yes) == "reproduces"
    assert verdict(yes, maybe) == verdict(yes, nothing) == "cannot be said"
    assert verdict(yes, maybe, no) == "does not reproduce"


def made(outcomes: list[tuple[str, str, bool]]) -> Measured:
    """Problems with four candidates (y right, n wrong) and a refinement, right or wrong."""
    samples = [
        sample(
            f"p{index}",
            ["7" if one == "y" else f"{place}" for place, one in enumerate(candidates)],
            {"greedy": "1", LINEAR: "7" if right else "2"},
            size=size,
        )
        for index, (size, candidates, right) in enumerate(outcomes)
    ]
    return Measured(
        run_of(samples, (GREEDY, Method(name=LINEAR, kind="selfref", layout="linear", k=4)))
    )


def test_figures_are_paired_and_parted() -> None:
    run = made([("6x2", "yyyn", True), ("6x2", "nnnn", True), ("7x3", "nnyn", False)] * 10)
    assert run.accuracy("pass@1").mean == pytest.approx((0.75 + 0 + 0.25) / 3)
    assert run.accuracy(MAJORITY).mean == pytest.approx(1 / 3)
    assert run.minus(LINEAR, MAJORITY).mean == pytest.approx(1 / 3)
    wrong = run.none_right(4)
    assert wrong.sum() == 10
    found = run.among(wrong, LINEAR)
    assert found is not None
    assert found.mean == 1.0
    small = run.only(lambda one: one.size == "6x2")
    assert small is not None
    assert small.accuracy(LINEAR).mean == 1.0
    assert run.only(lambda one: one.size == "9x9") is None
    assert run.minus(LINEAR, MAJORITY, small).mean == 0.5  # over the twenty that both have
    others = made([("6x2", "yyyn", True)])
    others.run.samples[0].id = "another"
    with pytest.raises(InvalidRequest, match="no problem in common"):
        run.minus(LINEAR, LINEAR, others)
    with pytest.raises(InvalidRequest, match="none of greedy"):
        run.accuracy("selfref linear@9")


def test_the_vote_that_costs_as_much() -> None:
    run = made([("6x2", "yyyn", True)] * 3)  # candidates of 10 tokens; the prompt has 20
    assert run.tokens("maj@4") == (60, 10)
    assert run.vote_within("maj@3") == "maj@3"
    assert run.vote_within(LINEAR) == "maj@4"  # it computes 60 tokens more, and no more are drawn
    assert run.tokens(LINEAR)[0] == 120


def test_questions_by_name() -> None:
    assert [one.name for one in chosen(["sweep", "sweep"], None)] == ["sweep"]
    assert len(chosen(["all"], "some/model")) == len(QUESTIONS)
    assert "prompting" not in [one.name for one in chosen(["all"], None)]
    with pytest.raises(InvalidRequest, match="got 'none'"):
        chosen(["none"], None)
    with pytest.raises(InvalidRequest, match="chat model"):
        chosen(["prompting"], None)


def test_the_report_has_the_questions_that_are_finished(tmp_path: Path) -> None:
    outcomes = [("6x2+", "yyyn", True), ("6x2+", "nnnn", True), ("7x3+", "nnyn", True)] * 10
    run = with_views(made(outcomes).run)
    write_run(tmp_path / "runs" / "thinking", run.facts, run.samples)
    write_report(tmp_path)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## context" in text
    assert "**reproduces**" in text  # the views are equal
    assert "## levels" not in text


def with_views(run: Run) -> Run:
    """With the same answers in both layouts and views."""
    names = [f"{kind} {layout}@4" for kind in ("selfref", "views") for layout in LAYOUTS]
    for one in run.samples:
        found = asdict(one.answers.pop())
        one.answers += [Answer(**{**found, "method": name}) for name in names]
    methods = [GREEDY, *(replace(REFINED, name=name) for name in names)]
    settings = {**run.settings, "methods": [asdict(one) for one in methods]}
    return Run({**run.facts, "settings": settings}, run.samples)
