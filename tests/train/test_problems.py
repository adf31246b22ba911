"""Problems from files: columns, answers that are missing, and bad rows by name."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import datasets
import pandas
import pytest

from gsr_engine import InvalidRequest
from gsr_engine.text.knights import FORM
from train.problems import as_text, load_problems, main, parse_columns

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


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", [{"problem": "3", "answer": 3}])
    write_jsonl(tmp_path / "a.jsonl", [{"problem": "1", "answer": 1}, {"problem": "2"}])
    problems = load_problems(tmp_path, {"answer": ""})
    assert [(p.text, p.answer) for p in problems] == [("1", None), ("2", None), ("3", None)]


def test_ids_are_kept_by_content(tmp_path: Path) -> None:
    """A row that is removed or moved changes no other problem's id."""
    rows = [{"problem": f"{i}+1", "answer": i + 1} for i in range(5)]
    before = {p.text: p.id for p in load_problems(write_jsonl(tmp_path / "a.jsonl", rows))}
    shuffled = write_jsonl(tmp_path / "b.jsonl", [rows[3], rows[0], rows[4]])
    after = {p.text: p.id for p in load_problems(shuffled)}
    assert after == {text: before[text] for text in after}
    assert len(set(before.values())) == len(rows)
    twice = load_problems(write_jsonl(tmp_path / "c.jsonl", [rows[0], rows[0]]))
    assert [p.id for p in twice] == [before["0+1"], before["0+1"] + "-2"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (float("nan"), None),
        ("", None),
        (" \n", None),
        ("NaN", None),
        ("<NA>", None),
        (7.0, "7"),
        (1e16, "10000000000000000"),
        (-0.125, "-0.125"),
        (1e-7, "0.0000001"),
        (0, "0"),
        (10**30, "1" + "0" * 30),
        (Decimal("2.50"), "2.5"),
        ("none", "none"),
    ],
)
def test_values_are_text_as_one_writes_them(value: object, text: str | None) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize("value", ["true", "[1, 2]", '{"a": 1}', "Infinity"])
def test_an_answer_that_is_neither_text_nor_number_is_refused(tmp_path: Path, value: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"problem": "1+1", "answer": {value}}}')
    with pytest.raises(InvalidRequest, match=r"rows\.jsonl line 1: answer must be"):
        load_problems(file)


def test_what_pandas_writes_is_read(tmp_path: Path) -> None:
    frame = pandas.DataFrame(
        {
            "problem": ["a", "b", "c"],
            "answer": [7.0, float("nan"), 1e16],
            "size": pandas.array([3, None, 4], dtype="Int64"),
            "source": pandas.to_datetime(["2024-01-01", None, None]),
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    frame.drop(columns="source").to_json(tmp_path / "b.jsonl", orient="records", lines=True)
    expected = [("a", "7", "3"), ("b", None, ""), ("c", "10000000000000000", "4")]
    for name in ("a.parquet", "b.jsonl"):
        found = load_problems(tmp_path / name)
        assert [(p.text, p.answer, p.size) for p in found] == expected
    floats = pandas.DataFrame({"problem": ["a"], "answer": [0.1]}).astype({"answer": "float32"})
    floats.to_parquet(tmp_path / "c.parquet")
    assert load_problems(tmp_path / "c.parquet")[0].answer == "0.1"


def test_an_optional_column_of_another_kind_is_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"problem": "p", "answer": "1", "solution": [True, False]}] * 2
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    with caplog.at_level("WARNING"):
        assert [p.solution for p in load_problems(file)] == [None, None]
    (record,) = caplog.records
    assert record.getMessage() == (
        "the column solution is left out: it must be text or a number, got list"
    )
    with pytest.raises(InvalidRequest, match="solution must be text"):
        load_problems(file, {"solution": "solution"})


def test_a_knights_and_knaves_puzzle_says_its_form_once(tmp_path: Path) -> None:
    rows = [{"problem": "Who is a knave?", "answer": "(1) Ann is a knave\n(2) Bob is a knight"}]
    (problem,) = load_problems(write_jsonl(tmp_path / "a.jsonl", rows))
    assert problem.text == f"Who is a knave?\n\n{FORM}"
    main(str(tmp_path / "a.jsonl"), tmp_path / "b.jsonl")
    assert load_problems(tmp_path / "b.jsonl") == [problem]


def test_unknown_columns_are_named_with_those_that_are_there(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"question": "1+1", "final": "2"}])
    with pytest.raises(InvalidRequest, match="'question', 'final'; --columns"):
        main(str(file), tmp_path / "out" / "problems.jsonl")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    "encoding", ["latin-1", "utf-16", "utf-16-be", "utf-32", "gzip", "utf-8-sig"]
)
def test_other_encodings_are_named_and_a_byte_order_mark_is_read(
    tmp_path: Path, encoding: str
) -> None:
    file, row = tmp_path / "rows.jsonl", '{"problem": "café", "answer": "2"}\n'
    packed = encoding == "gzip"
    file.write_bytes(gzip.compress(row.encode()) if packed else row.encode(encoding))
    if encoding == "utf-8-sig":
        assert load_problems(file)[0].text == "café"
        return
    with pytest.raises(InvalidRequest, match=r"rows\.jsonl line 1: (is no UTF-8 text|NUL)"):
        load_problems(file)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"problem": "1+1"}', "'answer'"),
        ('{"answer": "2"}', "'problem'"),
        ('{"problem": "", "answer": "2"}', "problem is empty"),
        ('{"problem": " \\n", "answer": "2"}', "problem is empty"),
        ('{"problem": ["1"], "answer": "2"}', "problem must be text or a number, got list"),
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


def test_what_is_no_path_is_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = Mock(side_effect=datasets.exceptions.DatasetNotFoundError("unknown"))
    monkeypatch.setattr(datasets, "load_dataset", unknown)
    with pytest.raises(InvalidRequest, match="'no-such/path' is no path, and as a hub id: unknown"):
        load_problems("no-such/path")


@pytest.mark.parametrize("name", ["problms.jsonl", "sub/a.parquet", "/no/such", "a/b/c"])
def test_what_can_be_no_hub_id_is_not_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", Mock(side_effect=AssertionError))
    with pytest.raises(InvalidRequest, match=f"there is no {name}"):
        load_problems(name)


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
    expected = [("What is 1+1?", "2", "aops"), ("What is 1+3?", "4", "aops")]
    found = load_problems(out)
    assert [(one.text, one.answer, one.source) for one in found] == expected
    assert found == load_problems(out)
    source.write_text('{"problem": "unanswered", "answer": null}')
    with pytest.raises(InvalidRequest, match="no problems"):
        main(str(source), tmp_path / "none.jsonl")
    assert not list(tmp_path.glob("none*"))
