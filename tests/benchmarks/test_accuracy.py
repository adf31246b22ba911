"""A small accuracy run: any checkpoint, any JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.accuracy.__main__ import AccuracyCommand, main
from benchmarks.accuracy.problems import graded_problems, puzzle_problems
from benchmarks.accuracy.results import read_results
from gsr_engine import InvalidRequest
from train.options import parse_options

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    rows = [{"id": f"p{i}", "problem": f"{i}+{i}", "answer": str(2 * i)} for i in range(3)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def run(model: Path, data: Path, out: Path) -> None:
    main(
        AccuracyCommand(
            model=str(model), data=data, limit=2, k="1,3", max_tokens=12, seed=3, out=out
        )
    )


def test_a_run_on_any_checkpoint(
    qwen2: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(qwen2, data, tmp_path / "one.jsonl")
    printed = capsys.readouterr().out
    facts, samples = read_results(tmp_path / "one.jsonl")
    assert [sample.id for sample in samples] == ["p0", "p1"]
    assert all(len(sample.candidates) == 3 for sample in samples)
    assert set(samples[0].refinements) == {"linear@1", "linear@3", "linear@3 T=1"}
    assert sorted(samples[0].refinements["linear@3"].used) == [0, 1, 2]
    phases = facts["cost"]["linear"]["phases"]
    assert phases["refine_prefill"]["tokens_reused"] > 0
    run(qwen2, data, tmp_path / "two.jsonl")
    assert read_results(tmp_path / "two.jsonl")[1] == samples  # the seed repeats everything
    capsys.readouterr()
    main(AccuracyCommand(samples=tmp_path / "one.jsonl"))
    assert "selfRef linear@3" in printed
    assert capsys.readouterr().out in printed


def test_bad_data_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"problem": "1+1", "answer": "2"}\n{"problem": "no answer"}\n')
    with pytest.raises(InvalidRequest, match="line 2"):
        graded_problems(file)
    file.write_text('{"problem": "1+1", "answer": null}\n')
    with pytest.raises(InvalidRequest, match=r"problem 1 \(id \w+\) has no answer"):
        graded_problems(file)
    file.write_text("\n")
    with pytest.raises(InvalidRequest, match="no problems"):
        graded_problems(file)


def test_puzzles_carry_their_size() -> None:
    problems = puzzle_problems("validation", 0, 20)
    assert len({problem.id for problem in problems}) == 20
    assert all("x" in problem.size for problem in problems)


def test_options_stand_once_and_bad_ones_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--k", "4,1", "--max-tokens", "16384", "--layouts", "linear", "--data", "x.jsonl"]
    command = parse_options("x", AccuracyCommand, "", given)
    assert (command.ks, command.headline, command.max_tokens) == ((1, 4), 4, 16384)
    assert command.chosen_layouts(("branched",)) == ("linear",)
    assert parse_options("x", AccuracyCommand, "", []).chosen_layouts(("branched",)) == (
        "branched",
    )
    assert AccuracyCommand(k="1,2").headline == 2
    with pytest.raises(InvalidRequest, match="k: must be candidate counts"):
        AccuracyCommand(k="four")
    with pytest.raises(InvalidRequest, match="layout: must be one of linear, branched"):
        AccuracyCommand(layouts="spiral")
    for name in ("puzzles", "limit"):
        with pytest.raises(InvalidRequest, match=f"{name}: must be at least 1, got 0"):
            AccuracyCommand(**{name: 0})  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        parse_options("x", AccuracyCommand, "", ["--help"])
    printed = capsys.readouterr().out
    for flag in ("size-field", "puzzles", "limit", "seed", "dtype", "out", "samples", "model"):
        assert f"--{flag}" in printed
