"""The journal of an unfinished accuracy run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy.journal import Journal
from gsr_engine import CheckpointError
from train.command import show_log


def test_what_was_added_is_read_back_in_any_order(tmp_path: Path) -> None:
    values = {
        (repeat, index): {"text": f"ü {repeat} {index}"} for repeat in (0, 1) for index in (0, 1)
    }
    with Journal(tmp_path / "journal", {"seed": 3}) as journal:
        for (repeat, index), value in values.items():
            journal.add(repeat, "greedy", index, value)
            assert journal.get(0, "greedy", 0) == values[0, 0]
    with Journal(tmp_path / "journal", {"seed": 3}) as journal:
        journal.add(1, "greedy", 2, {})
        assert {key: journal.get(key[0], "greedy", key[1]) for key in reversed(values)} == values
        assert journal.missing(0, "greedy", range(3)) == [2]
        with pytest.raises(KeyError):
            journal.get(0, "selfref", 0)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    with Journal(tmp_path, {"seed": 3, "model": "a"}) as begun:
        begun.add(0, "greedy", 0, {})
    with pytest.raises(CheckpointError, match="holds an unfinished run, with another seed=3 not 4"):
        Journal(tmp_path, {"seed": 4, "model": "a"})
    with Journal(tmp_path, {"seed": 3, "model": "b"}) as again:  # its digest says what it holds
        assert len(again) == 1


def test_two_processes_do_not_write_one_journal(tmp_path: Path) -> None:
    """Each would take the other's lines for its own."""
    with Journal(tmp_path, {"seed": 3}) as first:
        with pytest.raises(CheckpointError, match="another process goes on with"):
            Journal(tmp_path, {"seed": 3})
        first.add(0, "greedy", 0, "a")
    with Journal(tmp_path, {"seed": 3}) as again:
        assert again.get(0, "greedy", 0) == "a"


def test_a_damaged_journal_loses_only_what_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_log()
    folder, settings = tmp_path / "journal", {"seed": 3}
    with Journal(folder, settings) as journal:
        for index in range(5):
            journal.add(0, "greedy", index, {"text": f"it is {index}", "logprob": -0.1 * index})
    file = folder / "results.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"it is 1", b"it is 9")
    lines[3] = b"\0" * 20 + b"\n"
    lines.append(b"[" * 100_000 + b"\n")
    file.write_bytes(b"".join(lines))
    (folder / "settings.json").write_text('{"se')
    with Journal(folder, settings) as journal:
        assert journal.missing(0, "greedy", range(5)) == [1, 3]
        assert journal.get(0, "greedy", 4) == {"text": "it is 4", "logprob": -0.4}
    said = capsys.readouterr().err
    assert "line 2 is damaged" in said
    assert "line 4 is damaged" in said
    assert "line 6 is damaged" in said
    assert "settings.json cannot be read" in said
    (folder / "settings.json").unlink()  # then nothing tells that these are results of another run
    with Journal(folder, {"seed": 4}) as other:
        assert len(other) == 0
