"""Every part of `make gpu-check` runs on a CPU over tiny shapes; no test is timed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from benchmarks.gpu_check import CHECKOUT, engine
from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check.kernel_tests import counts_in, failures_in
from benchmarks.gpu_check.large import worst_error
from benchmarks.gpu_check.part import run_part
from benchmarks.gpu_check.plan import EXTRA, PARTS
from benchmarks.gpu_check.record import ROWS, Record, Row, is_bad, read_rows
from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.tables import summary_of, tables_of
from tests.helpers.drafts import FREE

pytestmark = pytest.mark.slow

ALL = [*PARTS, *EXTRA]

TABLES = {
    "warm": {"limits", "checkpoint", "compiled"},
    "large": {"real sizes"},
    "engine": {
        "what ran",
        "against transformers",
        "the same tokens",
        "in company",
        "default memory",
    },
    "decode": {"decode", "targets"},
    "siblings": {"siblings", "targets", "sharing costs"},
    "selfref": {"selfref", "targets", "by hand"},
    "ragged": {"ragged"},
    "kernel-speed": {
        "decode",
        "prefill",
        "rms_norm",
        "gated_activation",
        "rope_and_cache",
        "experts",
        "sample",
        "token_logprobs",
    },
    "sweep": {
        "decode tile",
        "best decode tile",
        "split",
        "best split",
        "prefill tile",
        "best prefill tile",
    },
    "ncu": {"ncu"},
    "train": {"training step", "against the CPU"},
    "fp8": {"fp8 products", "fp8 logits", "fp8 graphs"},
    "kernel-tests": {"tests"},
    "lookup": {"lookup decoding"},
}


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """Tiny, in a fresh folder, where checkpoints are looked for too."""
    monkeypatch.chdir(tmp_path)
    return Setting(device="cpu", tiny=True, out=tmp_path)


@pytest.mark.parametrize("part", ALL)
def test_every_part_runs_through(part: str, setting: Setting) -> None:
    run_part(part, setting, seconds=600)
    machine, *rows = read_rows(setting.out)
    assert machine["table"] == "machine"
    assert [row for row in rows if is_bad(row)] == []
    assert [row for row in rows if "skipped" in row and part != "ncu"] == []
    assert {row["table"] for row in rows} == TABLES[part]
    text = tables_of(rows)
    assert all(row["case"] in text for row in rows)
    files = {file.name for file in setting.out.iterdir() if file.is_file()}
    kept = {"kernel-tests": {"kernel-tests.log"}, "decode": {"profile.txt"}}
    assert files == {ROWS} | kept.get(part, set())


def test_lookups_are_counted_with_their_graphs(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsr_engine.execution.device.measure_step_costs", lambda *_: FREE)
    run_part("lookup", setting, seconds=600)
    rows = {r["case"]: r for r in read_rows(setting.out) if r["table"] == "lookup decoding"}
    layouts, ways = ("linear", "branched"), ("without", "with")
    assert list(rows) == [f"k 2, {layout}, {way}" for layout in layouts for way in ways]
    for layout in layouts:
        plain, looked_up = (rows[f"k 2, {layout}, {way}"] for way in ways)
        assert plain["tokens"] == looked_up["tokens"] == 2 * (2 * 8 + 6)
        assert plain["tokens_per_step"] == 1
        assert plain["proposed"] == 0
        assert 0 <= looked_up["accepted"] <= looked_up["proposed"]
        assert looked_up["graphs"] >= plain["graphs"] > 0
        assert 0 <= looked_up["same"] <= 2


@pytest.mark.parametrize("part", ALL)
def test_what_comes_after_the_time_is_skipped(part: str, setting: Setting) -> None:
    run_part(part, setting, seconds=0)
    rows = [row for row in read_rows(setting.out) if row["table"] != "machine"]
    assert rows
    assert all("skipped" in row for row in rows)


def test_wrong_kernels_are_found(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_row_wrong(q: torch.Tensor, *_: Any) -> torch.Tensor:
        return q.clone()

    monkeypatch.setattr("csrc_triton.decode_attention", one_row_wrong)
    monkeypatch.setattr("csrc_triton.gated_activation", lambda x, _: x[..., ::2] * torch.nan)
    monkeypatch.setattr("csrc_triton.sample", lambda logits, *_: logits.argmin(-1))
    run_part("large", setting, seconds=600)
    bad = {row["case"].split(",")[0] for row in read_rows(setting.out) if is_bad(row)}
    assert bad == {"decode", "gated_activation", "sample"}


def test_the_worst_row_counts() -> None:
    expected = torch.ones(1000, 4)
    out = expected.clone()
    out[7] *= 1.5
    assert worst_error(out, expected) == pytest.approx(0.5)
    out[8, 1] = torch.nan
    assert not worst_error(out, expected) <= 1.0


def test_a_wrong_engine_is_found(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = engine.stream_logits
    monkeypatch.setattr(engine, "stream_logits", lambda *a: exact(*a).roll(1, dims=1))
    run_part("engine", setting, seconds=600)
    rows = [row for row in read_rows(setting.out) if row["table"] == "against transformers"]
    assert [row["passed"] for row in rows if "float32" in row["case"]] == [False] * 2


def test_what_raises_is_written_down_and_the_next_case_runs(tmp_path: Path) -> None:
    record = Record("part", tmp_path, 600)

    def fail() -> Row:
        raise ValueError("first line\nsecond")

    record.attempt("table", "one", fail)
    record.attempt("table", "two", lambda: {"figure": 0.25, "passed": True})
    record.attempt("table", "three", lambda: None)
    with (tmp_path / ROWS).open("a") as file:
        file.write('{"part": "cut of')
    one, two = read_rows(tmp_path)
    assert one["failed"] == "ValueError: first line"
    assert "def fail" not in one["traceback"]
    assert "in fail" in one["traceback"]
    assert two["figure"] == 0.25
    assert two["seconds"] >= 0
    assert "second" not in tables_of([one, two]).replace("seconds", "")
    said = summary_of([one, two], {"part": 3.0}).splitlines()
    assert said[0] == "part: 2 rows, 1 checks passed, 1 bad, 0 skipped, 3 s"
    assert said[1] == "BAD table: one: failed ValueError: first line"


def test_what_pytest_says_is_read() -> None:
    text = """..F
=========================== short test summary info ============================
FAILED tests/a/test_b.py::test_c[torch.float32-x y] - AssertionError: 3 failed
ERROR tests/a/test_d.py - ImportError: no
1 failed, 12 passed, 1 error in 3.21s
"""
    assert failures_in(text) == [
        ("tests/a/test_b.py::test_c[torch.float32-x y]", "AssertionError: 3 failed"),
        ("tests/a/test_d.py", "ImportError: no"),
    ]
    assert counts_in(text) == {"tests_failed": 1, "tests_passed": 12, "tests_error": 1}
    assert counts_in("") == {}


def test_the_command_sums_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits: list[float] = []

    class Process:
        """A part that ends at once."""

        def __init__(self, arguments: Sequence[str], log: Path) -> None:
            self._part, device, size, out = arguments[3:]
            assert (device, size) == ("cpu", "tiny")
            self._record = Record(self._part, Path(out), 60)

        def run(self, seconds: float, grace: float) -> Row | None:
            limits.append(seconds)
            if self._part in ("warm", "decode"):
                self._record.add("machine", "cpu", gpu="none", torch="2.11")
            self._record.add("table", "case", passed=self._part != "engine")
            return {"failed": "it died"} if self._part == "selfref" else None

        def end(self) -> str:
            return ""

    monkeypatch.setattr(command, "PartProcess", Process)
    with pytest.raises(typer.Exit):
        command.main(device="cpu", out=tmp_path)
    printed = capsys.readouterr().out
    assert printed.startswith("gpu none, torch 2.11\n== warm")
    assert "BAD table: case: passed NO" in printed
    assert "BAD part: selfref: failed it died" in printed
    assert (tmp_path / "report.txt").read_text() == printed
    # Whoever is early leaves time to the next: the last one has nearly all of it.
    assert limits == sorted(limits)
    assert 425 < limits[-1] < 431
    command.main(only="large,decode", device="cpu", out=tmp_path)  # no trace of what was before
    assert [row["part"] for row in read_rows(tmp_path)] == ["large", "decode", "decode"]
    # Whatever the first part came to, the machine is named.
    assert "gpu none, torch 2.11\n== decode" in (tmp_path / "report.txt").read_text()
    with pytest.raises(typer.BadParameter, match="'serve' is none of warm"):
        command.main(only="serve", out=tmp_path)


def test_a_check_that_is_told_to_end_has_its_report(tmp_path: Path) -> None:
    code = f"""
import runpy, sys, time
from benchmarks.gpu_check import process

class Slow:
    def __init__(self, command, log): self.part = command[3]
    def run(self, seconds, grace):
        if self.part == "engine":
            print("engine runs", flush=True)
            time.sleep(60)
    def end(self): print("ended", self.part, flush=True)

process.PartProcess = Slow
sys.argv[1:] = ["--device", "cpu", "--only", "large,engine,ncu", "--out", {str(tmp_path)!r}]
runpy.run_module("benchmarks.gpu_check", run_name="__main__")
"""
    arguments = [sys.executable, "-c", code]
    with subprocess.Popen(arguments, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "engine runs\n" in iter(process.stdout.readline, "")
        process.terminate()
        printed = process.stdout.read()
    assert process.returncode > 0
    assert "ended ncu" in printed  # the one that was made ahead
    skipped = {row["part"]: row["skipped"] for row in read_rows(tmp_path)}
    assert skipped == dict.fromkeys(["engine", "ncu"], "the check was ended before")
    report = (tmp_path / "report.txt").read_text()
    assert "engine: 1 rows, 0 checks passed, 0 bad, 1 skipped, 0 s" in report
    assert "SKIPPED part: engine: skipped the check was ended before" in report
    assert report.endswith(f"results: {tmp_path}\n")


def test_a_part_in_a_process_of_its_own(tmp_path: Path) -> None:
    command.main(only="kernel-speed", device="cpu", out=tmp_path)
    assert len(read_rows(tmp_path)) > 5
    assert "kernel-speed: " in (tmp_path / "report.txt").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / ROWS).write_text("earlier results")
    with pytest.raises(SystemExit, match="no NVIDIA GPU"):
        command.main(device="cuda", out=tmp_path)
    assert (tmp_path / ROWS).read_text() == "earlier results"
