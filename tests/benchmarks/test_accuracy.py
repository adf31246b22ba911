"""A small accuracy run: any checkpoint, any JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.__main__ import AccuracyCommand, main
from benchmarks.accuracy.journal import Journal
from benchmarks.accuracy.problems import graded_problems, puzzle_problems
from benchmarks.accuracy.results import ProblemResult, Solution, read_results
from gsr_engine import CheckpointError, Engine, GsrConfig, InvalidRequest
from gsr_engine.checkpoint.digest import tokenizer_digest, weights_digest
from train.command import Interrupted, show_log
from train.options import parse_options

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    rows = [{"id": f"p{i}", "problem": f"{i}+{i}", "answer": str(2 * i)} for i in range(3)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def run(model: Path, data: Path, out: Path, **changed: Any) -> None:
    options = {"limit": 2, "k": "1,3", "max_tokens": 12, "seed": 3, **changed}
    main(AccuracyCommand(model=str(model), data=data, out=out, **options))


@pytest.fixture(scope="module")
def whole(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    rows = [{"id": f"p{i}", "problem": f"{i}+{i}", "answer": str(2 * i)} for i in range(3)]
    (folder / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    run(qwen2, folder / "data.jsonl", folder / "samples.jsonl")
    return folder / "samples.jsonl"


def test_a_run_on_any_checkpoint(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts, samples = read_results(whole)
    assert [sample.id for sample in samples] == ["p0", "p1"]
    assert all(len(sample.candidates) == 3 for sample in samples)
    assert set(samples[0].refinements) == {"linear@1", "linear@3", "linear@3 T=1"}
    assert sorted(samples[0].refinements["linear@3"].used) == [0, 1, 2]
    cost = facts["measured"]["cost"]["linear"]
    assert cost["phases"]["refine_prefill"]["tokens_reused"] > 0
    assert cost["seconds"] > 0
    main(AccuracyCommand(samples=whole))
    printed = capsys.readouterr().out
    assert "selfRef linear@3" in printed
    assert "nan" not in printed


def test_a_samples_file_says_how_it_was_made(whole: Path, qwen2: Path) -> None:
    facts, _ = read_results(whole)
    settings = facts["settings"]
    assert settings["weights"] == weights_digest(qwen2)
    assert settings["tokenizer"] == tokenizer_digest(qwen2)
    assert settings["template"] == GsrConfig().template.hash
    assert settings["dtype"] in ("float32", "bfloat16")
    assert {
        "max_tokens": 12,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 3,
    }.items() <= settings.items()
    assert facts["machine"].keys() >= {"torch", "cpu"}
    assert "date" not in facts["machine"]  # measured: another run has another


@pytest.mark.parametrize("results", [1, 5, 10])
def test_an_interrupted_run_goes_on_to_the_same_samples(
    results: int,
    qwen2: Path,
    data: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupted before a result, at last by a kill that tore a line."""
    out, add = tmp_path / "samples.jsonl", Journal.add
    file = tmp_path / "samples.jsonl.journal" / "results.jsonl"

    def interrupted(journal: Journal, *result: Any) -> None:
        if len(journal) == results:
            raise KeyboardInterrupt
        add(journal, *result)

    monkeypatch.setattr(Journal, "add", interrupted)
    with pytest.raises(Interrupted, match="interrupted; the same command goes on"):
        run(qwen2, data, out)
    assert not out.exists()
    assert len(file.read_text().splitlines()) == results
    with file.open("a") as torn:
        torn.write('[17, "greedy", 0, {"err')
    monkeypatch.undo()
    run(qwen2, data, out)
    (facts, samples), (expected, all_at_once) = read_results(out), read_results(whole)
    for one, other in zip(samples, all_at_once, strict=True):
        for mine, theirs in zip(_solutions(one), _solutions(other), strict=True):
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-5)
            mine.logprob = theirs.logprob
    assert samples == all_at_once
    facts["settings"].pop("data")
    expected["settings"].pop("data")
    assert facts["settings"] == expected["settings"]
    assert not file.parent.exists()


def _solutions(sample: ProblemResult) -> list[Solution]:
    return [*sample.candidates, *filter(None, [sample.greedy]), *sample.refinements.values()]


def test_another_configuration_is_refused_by_name(
    qwen2: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "samples.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "missing", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # it ends before its first result
            run(qwen2, data, out, k="2")
    run(qwen2, data, out)  # so it keeps nothing from another run
    for changed in ({"max_tokens": 13}, {"k": "1"}, {"limit": 1}):
        name = {"limit": "problems"}.get(min(changed), min(changed))
        with pytest.raises(InvalidRequest, match=f"out: .* holds a run with another {name}="):
            run(qwen2, data, out, **changed)
    journal = tmp_path / "other.jsonl.journal"
    with Journal(journal, {"seed": 3, "model": "a"}) as begun:
        begun.add("greedy", 0, {})
    with pytest.raises(CheckpointError, match="holds an unfinished run, with another seed=3 not 4"):
        Journal(journal, {"seed": 4, "model": "a"})
    with Journal(
        journal, {"seed": 3, "model": "b"}
    ) as again:  # the weights' digest says what it is
        assert len(again) == 1


def test_a_damaged_journal_loses_only_what_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_log()
    folder, settings = tmp_path / "journal", {"seed": 3}
    with Journal(folder, settings) as journal:
        for index in range(5):
            journal.add("greedy", index, {"text": f"it is {index}", "logprob": -0.1 * index})
    file = folder / "results.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"it is 1", b"it is 9")
    lines[3] = b"\0" * 20 + b"\n"
    lines.append(b"[" * 100_000 + b"\n")
    file.write_bytes(b"".join(lines))
    (folder / "settings.json").write_text('{"se')
    with Journal(folder, settings) as journal:
        assert journal.missing("greedy", range(5)) == [1, 3]
        assert journal.get("greedy", 4) == {"text": "it is 4", "logprob": -0.4}
    said = capsys.readouterr().err
    assert "line 2 is damaged" in said
    assert "line 4 is damaged" in said
    assert "line 6 is damaged" in said
    assert "settings.json cannot be read" in said
    (folder / "settings.json").unlink()  # then nothing tells that these are results of another run
    with Journal(folder, {"seed": 4}) as other:
        assert len(other) == 0


def test_what_is_no_samples_file_is_named(tmp_path: Path, whole: Path) -> None:
    file = tmp_path / "s.jsonl"
    lines = whole.read_text().splitlines()
    for text, reason in (
        ("", "does not begin with a run"),
        ('{"run": {"config": {}}}\n', "does not begin with a run"),
        (lines[0], "holds no problem"),
        (lines[0] + '\n{"id": "p"}', "line 2 is not a problem's result"),
        ("no JSON", "line 1: Expecting value"),
    ):
        file.write_text(text)
        with pytest.raises(InvalidRequest, match=f"samples: .*{reason}"):
            read_results(file)


def test_a_finished_run_is_not_done_again(
    whole: Path, qwen2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Engine, "step", lambda _: 1 / 0)
    before = whole.read_bytes()
    run(qwen2, whole.parent / "data.jsonl", whole)
    assert "selfRef linear@3" in capsys.readouterr().out
    assert whole.read_bytes() == before


def test_what_can_be_refused_is_before_the_first_token(
    qwen2: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "step", lambda _: 1 / 0)
    out = tmp_path / "samples.jsonl"
    for refused, changed in {
        "layout: the checkpoint was not trained for 'branched'": {"layouts": "linear,branched"},
        "k: must be an integer from 1 to 256": {"k": "300"},
        "max_tokens: must be an integer from 1": {"max_tokens": 0},
        "temperature: must be a number": {"temperature": -1.0},
    }.items():
        with pytest.raises(InvalidRequest, match=refused):
            run(qwen2, data, out, **changed)
    data.write_text('{"problem": " ", "answer": "1"}\n')
    with pytest.raises(InvalidRequest, match=r"no problem can be asked; .* line 1: problem"):
        run(qwen2, data, out)
    assert list(tmp_path.iterdir()) == [data]


def test_a_bad_row_is_named_and_left_out(
    qwen2: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [{"problem": " "}, *({"id": "long", "problem": digit * 900} for digit in "98")]
    lines = [json.dumps({**row, "answer": "1"}) for row in bad]
    data.write_text("\n".join([lines[0], *data.read_text().splitlines(), *lines[1:]]))
    show_log()
    out = tmp_path / "samples.jsonl"
    run(qwen2, data, out, limit=6, layouts="branched", force_layout=True)
    facts, samples = read_results(out)
    assert [sample.id for sample in samples] == ["p0", "p1", "p2"]
    assert [name for name, _ in facts["left_out"]] == [f"{data} line 1", "long", "long"]
    printed = capsys.readouterr()
    for shown in (printed.out, printed.err):
        text = " ".join(shown.split())
        assert "line 1 is left out" in text or "line 1: problem: problem is empty" in text
        assert "problem long" in text
    assert {"branched@1", "branched@3"} <= samples[0].refinements.keys()


def test_bad_data_names_the_line(tmp_path: Path) -> None:
    """What is wrong with a row is the row's; what is wrong with the first may be the columns'."""
    file = tmp_path / "bad.jsonl"
    rows = ['{"problem": "1+1", "answer": "2"}', '{"problem": "?"}', '{"problem": " "}', "{}"]
    file.write_text("\n".join([*rows, '{"problem": "2+2", "answer": null, "id": "x"}']))
    errors = {one.id.removeprefix(f"{file} "): one.error for one in graded_problems(file)[1:]}
    assert errors.keys() == {"line 2", "line 3", "line 4", "x"}
    assert errors["line 2"].startswith("there is no 'answer', but 'problem'; --columns")
    assert errors["x"] == "it has no answer"
    file.write_text("\n".join(rows[1:]))
    with pytest.raises(InvalidRequest, match="line 1: there is no 'answer', but 'problem'"):
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
    flags = ("size-field", "puzzles", "limit", "seed", "dtype", "out", "samples", "model", "view")
    for flag in (*flags, "force-layout", "temperature", "top-p", "summary-tokens", "order"):
        assert f"--{flag}" in printed
