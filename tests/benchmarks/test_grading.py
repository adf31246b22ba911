"""The check of the graders: pairs whose verdict is known, and a table that counts the others."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.grading.__main__ import GradingCommand, main
from benchmarks.grading.audit import Graded, border, chosen
from benchmarks.grading.checks import pairs_of
from benchmarks.samples.folder import write_run
from gsr_engine.errors import InvalidRequest
from gsr_engine.text.answers import same_answer
from tests.helpers.runs import GREEDY, run_of, sample, solution

GOLDS = [
    "1250",
    r"\frac{3}{7}",
    r"(2, \sqrt{5})",
    "314_5",
    r"48\mbox{ cm}^2",
    "(1) Ava is a knight\n(2) Leo is a knave",
    r"\text{north}",
]


def test_own_golds_are_right_and_neighbours_and_changed_ones_wrong() -> None:
    pairs = list(pairs_of([str(i) for i in range(len(GOLDS))], GOLDS))
    assert {pair.kind for pair in pairs} == {"own", "rewritten", "neighbour", "changed"}
    assert [pair for pair in pairs if same_answer(pair.answer, pair.gold) is not pair.right] == []
    for i, gold in enumerate(GOLDS):
        kinds = [pair.kind for pair in pairs if pair.gold == gold]
        assert kinds.count("own") == 1
        assert "rewritten" in kinds
        assert kinds.count("neighbour") == min(3, len(GOLDS) - 1 - i)


@pytest.mark.slow
def test_the_command_counts_and_lists_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "golds.jsonl"
    rows = [{"question": f"{i}?", "answer": gold} for i, gold in enumerate(["5", "x=5", *GOLDS])]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(GradingCommand(data=(file,), columns="problem=question"))
    printed = capsys.readouterr().out
    assert "golds.jsonl: 9 golds" in printed
    counted = {row[0]: row[1:] for row in cells(printed) if len(row) == 5}
    assert [int(count) > 0 for count in counted["answers"]] == [True] * 4
    assert counted["grader is wrong"] == counted["votes is wrong"] == ["0", "0", "1", "0"]
    assert counted["votes ≠ grader"] == ["0"] * 4
    # Not every gold is a number, so that grader alone would be wrong.
    assert 0 < int(counted["number is wrong"][0]) < 9
    assert counted["spelling ≠ number"][0] == counted["number is wrong"][0]
    (listed,) = [row for row in cells(printed) if row[2:3] == ["x=5"]]
    assert listed[0] == "neighbour"  # 5 and x=5 state the same


def cells(printed: str) -> list[list[str]]:
    return [[one.strip() for one in line.split("│")[1:-1]] for line in printed.splitlines()]


def graded(answer: str | None, correct: bool, text: str = "", **changed: Any) -> Graded:
    one = solution(answer, correct=correct, text=text or f"so \\boxed{{{answer}}}", **changed)
    says = {"spelling": answer == "7", "number": answer == "7", "votes": answer == "7"}
    verdicts = says | {"math-verify": correct, "grader": correct}
    return Graded("run", "p1", "candidate 0", "2+5?", "7", one, verdicts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (graded("7", True), None),
        (graded("8", False), None),
        (graded("\\sum 7", True), "algebra"),
        (graded("7", False), "disagree"),
        (graded("8", False, "it is 7, so 8"), "mentioned"),
        (graded("8", False, "it is 17, or 7.5"), None),
        (graded(None, False, "the total is 7."), "unfound"),
        (graded(None, False, "7 of them are here"), None),
        (graded("7", True, finish_reason="length"), "cut"),
    ],
)
def test_answers_near_the_border_are_told_from_clear_ones(
    answer: Graded, reason: str | None
) -> None:
    assert answer.reason == reason


def test_an_audit_takes_from_every_reason_in_turn_and_shows_no_answer_twice() -> None:
    cuts = [graded(str(i), False, finish_reason="length") for i in range(10)]
    algebra = [graded("\\sum 7", True)] * 5
    near = border([*cuts, *algebra, graded("7", True)])
    assert {reason: len(each) for reason, each in near.items() if each} == {"algebra": 1, "cut": 10}
    items = chosen(near, 4)
    assert [reason for reason, _ in items] == ["algebra", "cut", "cut", "cut"]
    assert items == chosen(near, 4)
    assert len(chosen(near, 100)) == 11


@pytest.mark.slow
def test_a_page_of_runs_is_for_people_and_believes_no_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "<script>alert(1)</script> & 7, so 8"
    one = sample("<b>1</b>", ["7", "8"], {"greedy": "9"})
    one.candidates[1].text = hostile
    one.candidates.append(solution(None, text="it must be 7"))
    made = run_of([one], [GREEDY])
    write_run(tmp_path / "run", made.facts, made.samples)
    out = tmp_path / "page.html"
    main(GradingCommand(samples=(tmp_path / "run",), audit=5, out=out))
    page = out.read_text()
    assert "<script>" not in page
    assert "<b>1</b>" not in page
    assert html.escape(hostile) in page
    assert page.count("<article>") == 2  # the 8 that mentions 7, and what was not found
    rows = {row[0]: row[1:] for row in cells(capsys.readouterr().out) if len(row) == 3}
    assert rows["answers"] == ["1", "2"]  # 7, and then 8 and 9
    assert rows["grader says otherwise"] == rows["votes ≠ grader"] == ["0", "0"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "data"),
        ({"data": (Path("a"),), "audit": 3}, "audit"),
        ({"audit": 0}, "audit"),
        ({"samples": (Path("a"),), "shown": 3}, "shown"),
        ({"samples": (Path("a"),), "columns": "answer=b"}, "columns"),
        ({"samples": (Path("a"),), "out": Path("b")}, "out"),
    ],
)
def test_what_cannot_be_checked_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        GradingCommand(**options)
    assert caught.value.field == field
