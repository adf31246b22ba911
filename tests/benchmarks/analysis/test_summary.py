"""A summary of any run is whole, plain, and printed; the smallest runs, too."""

from __future__ import annotations

import json
from dataclasses import asdict
from io import StringIO

import pytest
from rich.console import Console

from benchmarks.analysis.summary import Summary, summarize
from benchmarks.analysis.tables import show_summary
from benchmarks.samples.folder import Run
from benchmarks.samples.method import Method
from gsr_engine import InvalidRequest
from tests.helpers.runs import GREEDY, LINEAR, answer_of, run_of, sample

BRANCHED = Method(name="selfref branched@4", kind="selfref", layout="branched", k=4)
WARM = Method(name="selfref linear@4 T=1", kind="selfref", layout="linear", k=4, temperature=1.0)
ONE = Method(name="selfref linear@1", kind="selfref", layout="linear")
ORDER = Method(name="orders linear@4 #1", kind="orders", layout="linear", k=4, order=1)
ALL = (GREEDY, ONE, LINEAR, BRANCHED, WARM, ORDER)


def shown(summary: Summary) -> str:
    """Its tables, which are plain; what is shown is in them, and no NaN."""
    json.dumps(asdict(summary), allow_nan=False)
    console = Console(width=100, record=True, file=StringIO())
    show_summary(console, summary)
    text = console.export_text()
    assert "nan" not in text
    assert max(map(len, text.splitlines())) <= 100
    return text


def whole_run(repeats: int = 2) -> Run:
    drawn: list[list[str | None]] = [
        ["7", "7", "1", "2"],
        ["1", "1", "7", "2"],
        ["1", "2", None, "3"],
        ["7", "7", "7", "7"],
    ]
    refined = ["7", "7", "7", "5"]
    every = [
        sample(f"p{i}", row, {m.name: answer for m in ALL}, repeat=repeat, size=f"{i % 2}")
        for repeat in range(repeats)
        for i, (row, answer) in enumerate(zip(drawn, refined, strict=True))
    ]
    run = run_of(every, ALL)
    run.facts["left_out"] = [["p[9]", "problem: is empty"]]
    phase = {"tokens_computed": 1200, "tokens_reused": 30, "seconds": 0.5}
    run.facts["measured"]["cost"] = {"linear": {"problems": 3, "phases": {"refine_decode": phase}}}
    return run


def test_everything_is_in_the_summary_and_in_the_tables() -> None:
    summary = summarize(whole_run(), resamples=200)
    accuracy = {row.name: row.accuracy.mean for row in summary.methods}
    assert accuracy["maj@4"] == 0.5
    assert accuracy["pass@4 (oracle)"] == 0.75
    assert accuracy["pass@1"] == pytest.approx((2 + 1 + 0 + 4) / 16)
    assert accuracy["selfref linear@4"] == 0.75
    assert len(accuracy) == len(summary.methods)
    assert summary.anchors == ["selfref linear@4", "selfref branched@4"]
    assert (summary.problems, summary.repeats, summary.samples) == (4, 2, 8)
    assert {(one.method, one.other) for one in summary.differences} >= {
        ("selfref linear@4", "maj@4"), ("selfref branched@4", "selfref linear@4"),
        ("selfref linear@4 T=1", "maj@4"), ("greedy", "maj@4"), ("selfref linear@1", "maj@1"),
    }  # fmt: skip
    assert {one.method for one in summary.budgets} == {m.name for m in ALL[1:5]}
    assert len(summary.duels) == 2 * (len(summary.methods) - 1)
    families = {point.family: [] for point in summary.curve}  # type: dict[str, list[int]]
    for point in summary.curve:
        families[point.family].append(point.k)
    assert families["selfref linear"] == [1, 4]
    assert families["maj"] == families["pass@k"] == [2, 3, 4]
    text = shown(summary)
    for part in (
        "4 problems, 2 repeats", "left out: problem p[9]: problem: is empty", "over k",
        "paired differences", "majority at equal cost", "by right candidates of 4",
        "by size of the majority of 4", "by size", "against the majority", "orders of the same",
        "over 2 repeats", "end to end, measured", "1,200",
    ):  # fmt: skip
        assert part in text


def test_the_same_samples_give_the_same_summary() -> None:
    assert summarize(whole_run(), resamples=100) == summarize(whole_run(), resamples=100)


def test_repeats_that_are_copies_change_no_accuracy_and_no_interval() -> None:
    once, thrice = (summarize(whole_run(repeats), resamples=200) for repeats in (1, 3))
    assert once.methods == thrice.methods
    assert once.differences == thrice.differences
    assert all(one.accuracy.sd == 0 for one in thrice.repeated)
    assert not once.duels


def test_one_problem() -> None:
    text = shown(summarize(run_of([sample("a", ["7"] * 4, {"greedy": "7", LINEAR.name: "1"})])))
    assert "1 problems" in text


def test_without_greedy_and_without_refinements() -> None:
    run = run_of([sample(p, ["7", "1", "1", None], {}) for p in "ab"], [])
    summary = summarize(run, resamples=100)
    assert not summary.differences
    assert not summary.budgets
    assert "maj@4" in shown(summary)


def test_all_right_and_all_wrong() -> None:
    for answer, accuracy in (("7", 1.0), ("1", 0.0)):
        every = [sample(p, [answer] * 4, {"greedy": answer, LINEAR.name: answer}) for p in "abc"]
        summary = summarize(run_of(every), resamples=100)
        assert {row.accuracy.mean for row in summary.methods} == {accuracy}
        assert (summary.gaps[0].interval is None) == (accuracy == 0)
        shown(summary)


def test_k_1_only() -> None:
    run = run_of([sample(p, ["7"], {"greedy": "1", ONE.name: "7"}) for p in "ab"], [GREEDY, ONE])
    run.settings["k"], run.settings["headline"] = [1], 1
    summary = summarize(run, resamples=100)
    assert [row.name for row in summary.methods] == ["pass@1", "greedy", "selfref linear@1"]
    assert summary.anchors == ["selfref linear@1"]
    shown(summary)


def test_greedy_alone() -> None:
    run = run_of([sample(p, [], {"greedy": "7"}) for p in "ab"], [GREEDY])
    assert [row.name for row in summarize(run, resamples=100).methods] == ["greedy"]
    shown(summarize(run, resamples=100))


def test_failures_are_wrong_and_named() -> None:
    one, other = (sample(p, ["7"] * 4, {"greedy": "7"}) for p in "ab")
    failed = {"error": "the prompt is too long", "finish_reason": "error", "tokens": 0}
    one.answers.append(answer_of(LINEAR.name, None, **failed, logprobs=[]))
    other.answers.append(answer_of(LINEAR.name, "7"))
    other.candidates[1].error, other.candidates[1].logprobs = "lost", []
    summary = summarize(run_of([one, other]), resamples=100)
    (row,) = (row for row in summary.methods if row.name == LINEAR.name)
    assert (row.accuracy.mean, row.unanswered) == (0.5, 0.5)
    assert summary.notes == [
        "not every candidate has log-probabilities: nothing is chosen or weighted by them",
        "1 candidates failed; the first: lost",
        "selfref linear@4: 1 answers failed; the first: the prompt is too long",
    ]
    assert summary.window is None
    assert "note: 1 candidates failed" in shown(summary)


@pytest.mark.parametrize("name", ["headline", "repeats", "methods"])
def test_a_run_without_its_settings_is_refused(name: str) -> None:
    run = whole_run()
    del run.settings[name]
    with pytest.raises(InvalidRequest, match=f"lack {name}"):
        summarize(run)
