"""`gsr bench`: its rows, its limits, its errors, and Ctrl-C."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gsr_engine import GsrError, InvalidRequest
from gsr_engine.cli.commands import app
from gsr_engine.demo.report import NANO
from gsr_engine.execution.pipeline import Pipeline
from gsr_engine.kv.segments import PAGE_SIZE

pytestmark = pytest.mark.slow

SMALL = (
    *("--k", "1,2", "--tokens", "16/8/6", "--problems", "2"),
    *("--kv-cache-gib", "0.01", "--threads", "1"),
)
CASES = [(1, "linear"), (1, "branched"), (2, "linear"), (2, "branched")]


def gsr_bench(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments])


@pytest.fixture(scope="module")
def done() -> Result:
    return gsr_bench(str(NANO), *SMALL, "--json")


@pytest.fixture(scope="module")
def run(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_k_is_measured_in_both_layouts(run: dict[str, Any]) -> None:
    assert [(row["k"], row["layout"]) for row in run["rows"]] == CASES
    assert run["work"] == {"ks": [1, 2], "tokens": [16, 8, 6], "problems": 2}


def test_a_row_agrees_with_itself(run: dict[str, Any]) -> None:
    for row in run["rows"]:
        assert row["tokens"] == 2 * (row["k"] * 8 + 6)
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert 0 < row["answer_seconds"] <= row["seconds"]
        assert 0 < sum(row["phases"].values()) <= row["seconds"]
        assert set(row["phases"]) == set(row["phase_tokens"])
        assert row["phase_tokens"]["candidate_decode"] == 2 * row["k"] * 7
        assert row["phase_tokens"]["refine_decode"] == 2 * 5
        assert row["phase_tokens"]["candidate_prefill"] == row["prompt_tokens"] >= 2 * 16
        assert row["notes"] == []


def test_the_linear_layout_alone_reads_the_candidates_again(run: dict[str, Any]) -> None:
    read = {(row["k"], row["layout"]): row["phase_tokens"]["refine_prefill"] for row in run["rows"]}
    assert read[2, "linear"] - read[1, "linear"] >= 2 * 8
    # Branched: the last token of each candidate was never fed.
    assert read[2, "branched"] - read[1, "branched"] == 2


def test_limits_stand_beside(run: dict[str, Any]) -> None:
    weights = run["step_weights_gib"] * 2**30
    for row in run["rows"]:
        assert row["steps"] == 8 + 6
        expected = 14 * weights / (1e9 * run["copy_gb"])
        assert row["weights_seconds"] == pytest.approx(expected)
        assert row["products_seconds"] > 0
    assert run["machine"]["threads"] == "1"


def test_memory_is_that_of_each_row(run: dict[str, Any]) -> None:
    page = run["load"]["kv_bytes_per_token"] * PAGE_SIZE
    peaks = [row["kv_peak_gib"] * 2**30 / page for row in run["rows"]]
    assert all(peak == pytest.approx(round(peak)) for peak in peaks)
    assert peaks[0] < peaks[3]
    assert 0 < max(peaks) * page < run["peak_gib"] * 2**30


def test_progress_and_the_estimate_are_on_stderr(done: Result) -> None:
    lines = done.stderr.splitlines()
    assert "of weights (float32)" in lines[0]
    assert re.fullmatch(r"note: about \d+ s for 4 rows, by the first steps", lines[1])
    assert [line.split(":")[0] for line in lines[2:]] == [f"k {k}, {name}" for k, name in CASES]


def test_the_same_as_a_table_and_a_layout_that_is_forced(tmp_path: Path) -> None:
    folder = tmp_path / "linear alone"
    shutil.copytree(NANO, folder)
    claims = json.loads((folder / "gsr.json").read_text()) | {"layouts": ["linear"]}
    (folder / "gsr.json").write_text(json.dumps(claims))
    told = gsr_bench(str(folder), "--k", "1", "--tokens", "16/4/4", "--kv-cache-gib", "0.01")
    assert told.exit_code == 0, told.stderr
    assert " branched* " in told.stdout
    assert "* the checkpoint does not claim the branched layout: it was forced" in told.stdout
    assert " linear  " in told.stdout


def test_ctrl_c_prints_the_rows_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, rows = Pipeline.step, 0

    def step(self: Pipeline) -> None:
        nonlocal rows
        rows += 1
        if rows == 50:  # the probes take some 16 steps, each row 14
            raise KeyboardInterrupt
        plain(self)

    monkeypatch.setattr(Pipeline, "step", step)
    told = gsr_bench(str(NANO), *SMALL, "--json")
    assert told.exit_code == 130
    assert told.stderr.endswith("gsr: interrupted\n")
    found = json.loads(told.stdout)["rows"]
    assert [(row["k"], row["layout"]) for row in found] == CASES[: len(found)]
    assert 0 < len(found) < len(CASES)


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [
        ("--k", "1,x", "k: must be counts with ',' between"),
        ("--k", "", "k: must be counts"),
        ("--k", "0", "k: must be an integer from 1 to 256, got 0"),
        ("--tokens", "16/8", "tokens: must be three counts like 256/512/512"),
        ("--tokens", "16/8/1", "tokens: must be an integer from 2 to"),
        ("--tokens", "16/4000/8", "tokens: k 1, linear: min_tokens: 4000 is more than"),
        ("--problems", "0", "problems: must be an integer from 1 to"),
        ("--threads", "0", "threads: must be an integer from 1 to"),
        ("--dtype", "int8", "dtype: must be auto, float32 or bfloat16"),
        ("--quantization", "fp8", "quantization: 'fp8' is "),
        ("--kv-cache-gib", "1e-5", "tokens: k 1, linear: max_tokens: the request may need"),
    ],
)
def test_a_bad_value_is_named(flag: str, value: str, named: str) -> None:
    told = gsr_bench(str(NANO), *SMALL, flag, value)
    assert isinstance(told.exception, InvalidRequest)
    assert str(told.exception).startswith(named)
    assert told.stdout == ""


def test_a_model_that_is_not_there_is_an_error_of_ours() -> None:
    assert isinstance(gsr_bench("/nowhere/at/all").exception, GsrError)
