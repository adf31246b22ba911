"""The check of the graders: pairs whose verdict is known, and a table that counts the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.accuracy.problems import graded_problems
from benchmarks.grading.__main__ import GradingCommand, main
from benchmarks.grading.checks import pairs_of
from gsr_engine.text.answers import same_answer

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
    counted = [[cell.strip() for cell in line.split("│")[1:5]] for line in printed.splitlines()]
    assert ["own", "9", "0", "0"] in counted
    (listed,) = [line for line in printed.splitlines() if "x=5" in line]
    assert "neighbour" in listed  # 5 and x=5 state the same


def test_problems_are_graded_by_columns_of_other_names(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = {"question": "1+1", "final": 2, "solution": [True], "level": 3}
    file.write_text(json.dumps(row))
    (problem,) = graded_problems(file, "level", {"problem": "question", "answer": "final"})
    assert (problem.text, problem.gold, problem.size) == ("1+1", "2", "3")
