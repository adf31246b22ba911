"""Cost, strata, flips, budgets, orders, pools, repeats and fronts, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.analysis import selections
from benchmarks.analysis.budgets import matched_budgets
from benchmarks.analysis.candidates import candidates_of
from benchmarks.analysis.curve import curve
from benchmarks.analysis.generations import generated
from benchmarks.analysis.intervals import Resampling
from benchmarks.analysis.orders import order_sensitivity
from benchmarks.analysis.outcome import Outcome
from benchmarks.analysis.quality import mixtures, views
from benchmarks.analysis.repeats import duel, repeated
from benchmarks.analysis.strata import by_correct, by_majority, by_size, flips
from benchmarks.samples.folder import Run
from benchmarks.samples.method import Kind, Method
from benchmarks.samples.sample import Sample, Solution
from gsr_engine import InvalidRequest
from tests.benchmarks.analysis.made import candidates, outcome, rows
from tests.helpers.runs import GREEDY, LINEAR, answer_of, run_of, sample

DRAWN: list[
    list[str | None]
] = [  # majority right; wrong; right by the tie; all wrong; nobody answers
    ["7", "7", "1", "2"],
    ["1", "1", "7", "2"],
    ["7", "1", "2", None],
    ["1", "2", "3", "3"],
    [None, None, None, None],
]
REFINED = ["7", "7", "1", "7", None]


def of(kind: Kind, name: str, **changed: object) -> Method:
    return Method(name=name, kind=kind, layout="linear", **{"k": 4, **changed})  # type: ignore[arg-type]


def samples() -> list[Sample]:
    return [
        sample(f"p{i}", drawn, {LINEAR.name: REFINED[i]}, size=str(10 - i))
        for i, drawn in enumerate(DRAWN)
    ]


def refined(run: Run, method: Method = LINEAR) -> Outcome:
    return generated(run, candidates_of(run.samples), method)


def resampling(run: Run) -> Resampling:
    return Resampling([one.id for one in run.samples], resamples=100)


def test_strata_part_the_samples() -> None:
    run = run_of(samples())
    found, method = candidates_of(run.samples), refined(run)
    nc = by_correct(found, 4, [method], resampling(run))
    assert [(row.label, row.samples) for row in nc.rows] == [
        ("0", 2), ("1", 2), ("2", 1), ("3", 0), ("4", 0),
    ]  # fmt: skip
    assert [row.accuracy[LINEAR.name].mean for row in nc.rows[:3]] == [0.5, 0.5, 1.0]
    assert nc.rows[3].accuracy == {}
    largest = by_majority(found, 4, [method], resampling(run))
    assert {row.label: row.samples for row in largest.rows if row.samples} == {
        "0 wrong": 1, "1 right": 1, "2 wrong": 2, "2 right": 1,
    }  # fmt: skip
    size = by_size(run.samples, [method], resampling(run))
    assert [row.label for row in size.rows] == ["6", "7", "8", "9", "10"]  # as numbers
    for strata in (nc, largest, size):
        assert sum(row.samples for row in strata.rows) == len(run.samples)


def test_flips_go_both_ways_and_name_the_samples() -> None:
    run = run_of(samples())
    found = candidates_of(run.samples)
    one = flips(run.samples, found, refined(run), selections.majority_at(found, 4))
    assert (one.gained, one.lost, one.kept_right, one.kept_wrong) == (2, 1, 1, 1)
    assert [(at.right, at.samples, at.gained, at.lost) for at in one.by_correct[:3]] == [
        (0, 2, 1, 0), (1, 2, 1, 1), (2, 1, 0, 0),
    ]  # fmt: skip
    assert (one.gained_samples, one.lost_samples) == ([("p1", 0), ("p3", 0)], [("p2", 0)])


def test_cost_counts_what_each_method_needs() -> None:
    repeated_ = of("repeated", "repeated linear@4")
    fusion = of("fusion", "fusion@4")
    one = sample("a", ["7", "1", "7", "7"], {GREEDY.name: "7"})
    for candidate, tokens in zip(one.candidates, (10, 30, 20, 40), strict=True):
        candidate.tokens = tokens
    spent = {"generated_tokens": 15, "sequential_tokens": 12, "prompt_tokens": 150}
    one.answers += [
        answer_of(LINEAR.name, "7", computed_tokens=145, **spent),
        answer_of(repeated_.name, "7", computed_tokens=90, **spent),
        answer_of(fusion.name, None, computed_tokens=0, finish_reason="length", **spent),
    ]
    run = run_of([one], [GREEDY, LINEAR, repeated_, fusion])

    def cost(method: Method) -> tuple[float, ...]:
        c = refined(run, method).cost
        return tuple(a.item() for a in (c.generated, c.prompt, c.total, c.sequential))

    assert cost(GREEDY) == (10, 20, 20 + 10, 10)
    assert cost(LINEAR) == (100 + 15, 20 + 150, 20 + 100 + 145, 40 + 12)
    assert cost(repeated_) == (10 + 15, 20 + 150, 20 + 10 + 90, 10 + 12)
    assert cost(fusion) == (100 + 15, 20 + 150, 20 + 100 + 150 + 15, 40 + 12)  # nothing told
    assert (refined(run, fusion).cost.cut[0], refined(run, fusion).cost.unanswered[0]) == (1, 1)
    run.settings["endpoint"] = "http://host/v1"  # what its prefix cache had is no method's merit
    assert cost(LINEAR) == (100 + 15, 20 + 150, 20 + 100 + 150 + 15, 40 + 12)
    run.settings["refiner"] = "an engine here, without such a cache"
    assert cost(LINEAR)[2] == 20 + 100 + 145
    majority = selections.majority_at(candidates_of([one]), 2).cost
    assert (majority.total[0], majority.sequential[0]) == (20 + 40, 30)


def test_a_missing_answer_and_missing_candidates_are_named() -> None:
    with pytest.raises(InvalidRequest, match="problem a of repeat 2 has no answer greedy"):
        refined(run_of([sample("a", ["7"], {}, repeat=2)]), GREEDY)
    with pytest.raises(InvalidRequest, match="selfref linear@4 reads 4 candidates, and 1 were"):
        refined(run_of([sample("a", ["7"], {LINEAR.name: "7"})]))


@settings(max_examples=40)
@given(rows(), st.lists(st.integers(0, 120), min_size=2, max_size=2))
def test_a_larger_budget_buys_no_smaller_majority(
    every: list[list[Solution]], budgets: list[int]
) -> None:
    found = candidates(every)
    majorities = selections.mean_majorities(found)
    methods = [outcome(str(b), [1.0] * len(every), [b] * len(every)) for b in sorted(budgets)]
    bought = matched_budgets(methods, majorities, Resampling(range(len(every)), resamples=50))
    for axis in ("total", "sequential"):
        small, large = (one for one in bought if one.axis == axis)
        assert small.k <= large.k
        for one in (small, large):
            costs = [
                float(np.mean(m.cost.total if axis == "total" else m.cost.sequential))
                for m in majorities
            ]
            assert one.k == max([1, *(k for k, c in enumerate(costs, 1) if c <= one.tokens)])
            assert one.all_drawn == (one.k == found.drawn)
            assert one.difference.interval.mean == pytest.approx(1 - one.majority.mean)


def test_orders_change_answers_and_grades() -> None:
    methods = [LINEAR, *(of("orders", f"orders linear@4 #{n}", order=n) for n in (1, 2))]
    told = [
        ("7", "7", "7.0"),
        ("7", "1", "7"),
        ("1", "2", "1"),
        (None, None, None),
        ("7", None, "7"),
    ]
    every = [
        sample(f"p{i}", ["7"] * 4, dict(zip((m.name for m in methods), answers, strict=True)))
        for i, answers in enumerate(told)
    ]
    every[0].answers[2].correct = True
    run = run_of(every, methods)
    outcomes = [refined(run, method) for method in methods]
    (one,) = order_sensitivity(run, outcomes, resampling(run))
    assert one.methods == [method.name for method in methods]
    assert one.answer_changes.mean == pytest.approx(3 / 5)
    assert one.grade_changes.mean == pytest.approx(2 / 5)
    assert (one.ever_right.mean, one.always_right.mean) == pytest.approx((3 / 5, 1 / 5))
    assert one.accuracy == pytest.approx([3 / 5, 1 / 5, 3 / 5])
    assert not list(order_sensitivity(run, outcomes[:1], resampling(run)))


def test_mixtures_stand_beside_their_own_and_count_what_is_copied() -> None:
    half, quarter = (
        of("mixed", f"mixed linear@4 foreign {share}", pool="foreign", share=share)
        for share in (0.5, 0.25)
    )
    whole = of("views", "views linear@4", view="full")
    every = []
    for i, answer in enumerate(("9", "1", "7", None)):
        one = sample(f"p{i}", ["7", "1", "7", "7"], {LINEAR.name: "7", quarter.name: "7"})
        one.answers += [
            answer_of(
                half.name, answer, pools=["own", "own", "foreign", "foreign"],
                stated=["7", "1", "9", "1"],
            ),
            answer_of(whole.name, "1" if i else "7"),
        ]  # fmt: skip
        every.append(one)
    run = run_of(every, [LINEAR, half, quarter, whole])
    outcomes = [refined(run, method) for method in run.methods]
    own, low, high = mixtures(run, outcomes, resampling(run))
    assert (own.pool, own.share, own.accuracy.mean, own.difference) == ("own", 0.0, 1.0, None)
    assert (low.share, low.copied) == (0.25, None)  # nothing is told of what it read
    assert high.copied is not None
    assert high.copied.mean == 0.25  # 9 alone: 1 is an own one's answer, too
    assert high.difference is not None
    assert high.difference.interval.mean == pytest.approx(-0.75)
    (view,) = views(outcomes, resampling(run))
    assert (view.method, view.other, view.interval.mean) == (whole.name, LINEAR.name, -0.75)


def test_repeats_spread_and_meet_one_by_one() -> None:
    every = [sample(p, ["7"], {}, repeat=r) for r in range(3) for p in "ab"]
    one = repeated(every, outcome("a", [1, 1, 1, 0, 0, 0], [4, 6, 5, 5, 9, 3]))
    other = repeated(every, outcome("b", [1, 0, 1, 0, 1, 0]))
    assert one.accuracy.values == [1.0, 0.5, 0.0]
    assert (one.accuracy.mean, one.accuracy.sd) == (0.5, 0.5)
    assert (one.accuracy.lowest, one.accuracy.highest) == (0.0, 1.0)
    fought = duel(one, other)
    assert (fought.won, fought.tied, fought.lost) == (1, 1, 1)
    alone = repeated(every[:2], outcome("a", [1, 0]))
    assert (alone.accuracy.mean, alone.accuracy.sd) == (0.5, None)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.booleans()), min_size=1, max_size=8)
)
def test_a_point_is_on_the_front_unless_another_is_better(
    drawn: list[tuple[int, int, bool]],
) -> None:
    outcomes = []
    for hits, tokens, oracle in drawn:
        one = outcome("x", [float(i < hits) for i in range(3)], [tokens] * 3)
        outcomes.append(
            Outcome(name="x", family="x", k=1, hits=one.hits, cost=one.cost, oracle=oracle)
        )
    points = curve(outcomes, Resampling(range(3), resamples=50))
    real = [p for p in points if not p.oracle]
    for point in points:
        better = [
            p for p in real
            if p.total <= point.total and p.accuracy.mean >= point.accuracy.mean
            and (p.total, p.accuracy.mean) != (point.total, point.accuracy.mean)
        ]  # fmt: skip
        assert point.on_total_front == (not better and not point.oracle)
    assert any(p.on_total_front for p in points) == bool(real)
