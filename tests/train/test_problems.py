"""Problems from files: columns, answers that are missing, and bad rows by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import datasets
import pytest

from gsr_engine import InvalidRequest
from train.problems import Problem, load_problems, main, parse_columns

ROWS = [
    {"question": "1+1", "final": "2", "id": "a", "solution": "One and one.", "level": 3},
    {"question": "2+2", "final": None, "id": "b", "solution": None, "level": 4},
]
COLUMNS = {"problem": "question", "answer": "final", "size": "level"}


def write_jsonl(path: Path, rows: list[Mapping[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def test_jsonl_and_parquet_read_alike(tmp_path: Path) -> None:
    jsonl = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    parquet = tmp_path / "rows.parquet"
    datasets.Dataset.from_list(ROWS).to_parquet(parquet)
    first, second = load_problems(jsonl, COLUMNS)
    assert (first.id, first.text, first.answer, first.size) == ("a", "1+1", "2", "3")
    assert (first.solution, second.solution, second.answer) == ("One and one.", None, None)
    assert load_problems(parquet, COLUMNS) == [first, second]


def test_a_folder_is_read_in_order_and_numbers_the_rows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", [{"problem": "3", "answer": 3}])
    write_jsonl(tmp_path / "a.jsonl", [{"problem": "1", "answer": 1}, {"problem": "2"}])
    problems = load_problems(tmp_path, {"answer": ""})
    assert [(p.id, p.text, p.answer) for p in problems] == [
        ("1", "1", None),
        ("2", "2", None),
        ("3", "3", None),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"problem": "1+1"}', "'answer'"),
        ('{"answer": "2"}', "'problem'"),
        ('{"problem": "", "answer": "2"}', "problem is empty"),
        ('{"problem": ["1"], "answer": "2"}', "problem must be text, got list"),
        ('{"problem": "\\ud800", "answer": "2"}', "surrogates"),
        ("[1]", "must be an object"),
        ('{"problem', "line 1 column"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"problem": "1+1", "answer": "2"}\n' + line + "\n")
    with pytest.raises(InvalidRequest, match=r"bad\.jsonl line 2: ") as caught:
        load_problems(file)
    assert says in str(caught.value)


def test_a_bad_parquet_row_is_named_and_a_broken_file_too(tmp_path: Path) -> None:
    file = tmp_path / "bad.parquet"
    datasets.Dataset.from_list([{"problem": "1", "answer": "2"}, {"answer": "2"}]).to_parquet(file)
    with pytest.raises(InvalidRequest, match=r"bad\.parquet row 2: problem is empty"):
        load_problems(file)
    file.write_bytes(b"PAR1 and no more")
    with pytest.raises(InvalidRequest, match=r"bad\.parquet after row 0"):
        load_problems(file)


def test_what_is_no_path_is_looked_for_on_the_hub() -> None:
    with pytest.raises(InvalidRequest, match="no-such/path"):
        load_problems("no-such/path")


def test_a_hub_id_is_read_by_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"problem": "1+1", "expected_answer": "2"}, {"problem": "1+2", "expected_answer": "3"}]
    opened = Mock(return_value=datasets.Dataset.from_list(rows))
    monkeypatch.setattr(datasets, "load_dataset", opened)
    found = load_problems("someone/problems", {"answer": "expected_answer"}, "cot")
    assert [(one.text, one.answer) for one in found] == [("1+1", "2"), ("1+2", "3")]
    opened.assert_called_once_with("someone/problems", split="cot")


def test_columns_are_a_list_of_pairs() -> None:
    assert parse_columns("problem=question, answer=") == {"problem": "question", "answer": ""}
    assert parse_columns("") == {}
    for bad in ("question", "text=question"):
        with pytest.raises(InvalidRequest, match=bad):
            parse_columns(bad)


def test_the_command_writes_distinct_answered_problems(tmp_path: Path) -> None:
    """One row for every solution becomes one for every problem, in the form that is read back."""
    rows = [
        {"q": "What is 1+1?", "gold": None, "from": "aops"},
        {"q": "What is 1+1?", "gold": "2", "from": "aops"},
        {"q": " what is  1+1?", "gold": "2", "from": "aops"},
        {"q": "What is 1+2?", "gold": None, "from": "aops"},
        {"q": "What is 1+3?", "gold": "4", "from": "aops"},
        {"q": "What is 1+4?", "gold": "5", "from": "aops"},
    ]
    source, out = tmp_path / "raw.jsonl", tmp_path / "out" / "problems.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(str(source), out, columns="problem=q,answer=gold,source=from", limit=2)
    expected = [
        Problem("2", "What is 1+1?", "2", source="aops"),
        Problem("5", "What is 1+3?", "4", source="aops"),
    ]
    assert load_problems(out) == expected
    source.write_text('{"problem": "unanswered", "answer": null}')
    with pytest.raises(InvalidRequest, match="no problems"):
        main(str(source), tmp_path / "none.jsonl")
    assert not list(tmp_path.glob("none*"))
