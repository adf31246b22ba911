"""Files appear whole, torn lines are left out, and a folder has one owner."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from gsr_engine.errors import CheckpointError, InvalidRequest
from train.files import claim, open_appended, read_jsonl, replace_folder, whole_file


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    with whole_file(path) as file:
        file.write("süß")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "süß"
    assert os.listdir(path.parent) == ["result.json"]


def test_bytes_take_the_place_of_an_older_file(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_text("older")
    with whole_file(path, "wb") as file:
        file.write(b"\x00\xff")
        assert path.read_text() == "older"
    assert path.read_bytes() == b"\x00\xff"


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_text("older")

    def fail() -> None:
        with whole_file(path) as file:
            file.write("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "older"
    assert os.listdir(tmp_path) == ["result"]


def test_a_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    new, path = tmp_path / "new", tmp_path / "path"
    for content in ("first", "second"):
        new.mkdir()
        (new / content).touch()
        replace_folder(new, path)
        assert os.listdir(path) == [content]
        assert os.listdir(tmp_path) == ["path"]


def test_lines_know_their_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": "ü"}\n\n  \n{"a": 2}\r\n{"a": 3}'.encode())
    lines = list(read_jsonl(path))
    assert [line.row["a"] for line in lines] == ["ü", 2, 3]
    assert [line.where for line in lines] == [f"{path} line {n}" for n in (1, 4, 5)]
    for line in lines:
        raw = path.read_bytes()[line.offset : line.offset + line.length]
        assert json.loads(raw) == line.row


def test_a_last_line_without_its_end_is_torn_where_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for last in (b'{"a": 2', b'{"a": 2}'):
        path.write_bytes(b'{"a": 1}\n' + last)
        assert [line.row for line in read_jsonl(path, appended=True)] == [{"a": 1}]


@pytest.mark.parametrize("appended", [False, True])
@pytest.mark.parametrize("line", [b"[1]", b'{"a', b'{"a": "\xff"}', b"1"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: bytes, appended: bool) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"{}\n" + line + b"\n{}\n")
    with pytest.raises(InvalidRequest, match=r"samples: .*rows\.jsonl line 2: ") as caught:
        list(read_jsonl(path, "samples", appended=appended))
    assert caught.value.field == "samples"


def test_an_appended_file_goes_on_behind_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for torn in (b"", b'{"a": 9', b'{"a": 9}'):
        path.write_bytes(b'{"a": 1}\n' + torn)
        with open_appended(path) as file:
            file.write('{"a": 2}\n')
        assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'
    with open_appended(tmp_path / "new.jsonl") as file:
        file.write("{}\n")
    assert (tmp_path / "new.jsonl").read_bytes() == b"{}\n"


SETTINGS: dict[str, Any] = {"lr": 0.1, "sizes": (1, 2), "data": Path("a"), "log_every": 5}


def test_a_claimed_folder_keeps_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "run" / "config.json"
    for _ in range(2):
        claim(file, SETTINGS, "another run")
    assert json.loads(file.read_text()) == {**SETTINGS, "sizes": [1, 2], "data": "a"}
    assert os.listdir(file.parent) == ["config.json"]


def test_other_settings_are_refused_by_name_and_value(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    claim(file, SETTINGS, "another run")
    before = file.read_text()
    with pytest.raises(CheckpointError) as caught:
        claim(file, {**SETTINGS, "lr": 0.2, "new": 1}, "another run", free=["log_every"])
    said = str(caught.value)
    assert f"{tmp_path} holds another run, with another lr=0.1 not 0.2, new=None not 1;" in said
    assert "sizes" not in said
    assert file.read_text() == before
    assert os.listdir(tmp_path) == ["config.json"]


def test_free_settings_may_change_and_are_kept_up_to_date(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    claim(file, SETTINGS, "another run")
    claim(file, {**SETTINGS, "log_every": 7}, "another run", free=["log_every"])
    assert json.loads(file.read_text())["log_every"] == 7


def test_of_two_claims_at_once_the_first_wins(tmp_path: Path) -> None:
    for attempt in range(20):
        file, together = tmp_path / str(attempt) / "config.json", Barrier(4)

        def attempt_claim(seed: int, file: Path = file, together: Barrier = together) -> bool:
            together.wait()
            try:
                claim(file, {"seed": seed}, "another run")
            except CheckpointError:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(attempt_claim, range(4)))
        assert won.count(True) == 1
        assert json.loads(file.read_text()) == {"seed": won.index(True)}


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    file = tmp_path / "config.json"
    claim(file, {"seed": 0}, "another run")
    claim(file, {"seed": 0}, "another run")
    with pytest.raises(CheckpointError, match="another seed"):
        claim(file, {"seed": 1}, "another run")
