"""The commands as a whole: their status, Ctrl-C, encodings, and the memory that they take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gsr_engine import Engine, PoolTooSmall
from gsr_engine.cli import options
from gsr_engine.cli.commands import app
from gsr_engine.cli.progress import Progress
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.execution import device, host_memory
from gsr_engine.execution.pipeline import Pipeline

pytestmark = pytest.mark.slow

PROBLEM = sample_puzzles("validation", 0, 1)[0].problem
MAIN = "from gsr_engine.cli import main; main()"


def gsr(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_the_status_says_whether_there_is_an_answer() -> None:
    answered = gsr("solve", PROBLEM, "--seed", "1", "--k", "2")
    assert answered.exit_code == 0
    assert "\nanswer: " in answered.stdout
    assert " tokens/s" in answered.stderr
    assert "note: sampling: candidates temperature 1; refinement temperature 0\n" in answered.stderr
    cut = gsr("solve", PROBLEM, "--seed", "1", "--k", "2", "--max-tokens", "3", "--json")
    assert cut.exit_code == 1
    told = json.loads(cut.stdout)
    assert told["answer"] is None
    assert told["refinement"]["finish_reason"] == "length"
    assert [told["sampling"][name]["temperature"] for name in ("candidate", "refine")] == [1, 0]
    assert told["no_answer"] == "the refinement was cut at 3 tokens: raise --max-tokens"


def test_what_is_not_refined_has_its_reason() -> None:
    thinks = next(p.problem for p in sample_puzzles("validation", 5, 50) if "+" in p.problem)
    done = gsr("solve", thinks, "--k", "2", "--max-tokens", "3")
    assert done.exit_code == 1
    reason = "0 of 2 candidates are usable, min_candidates is 1; 2 were cut: raise --max-tokens; "
    assert f"── not refined: {reason}2 have no text after their thinking" in done.stdout


def test_a_cap_holds_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "DEFAULT_MAX_TOKENS", 20)
    file = tmp_path / "params.json"
    file.write_text(json.dumps({"ignore_eos": True}))
    done = gsr("generate", "a", "--raw", "--params", str(file), "--temperature", "0", "--json")
    (stream,) = json.loads(done.stdout)["completions"]
    assert (stream["tokens"], stream["finish_reason"]) == (20, "length")


@pytest.mark.parametrize(("given", "tops"), [({}, False), ({"prompt_logprobs": 2}, True)])
def test_the_log_probabilities_of_a_prompt_are_printed_if_asked_for(
    given: dict[str, int], tops: bool, tmp_path: Path
) -> None:
    file = tmp_path / "params.json"
    file.write_text(json.dumps({"max_tokens": 1, **given}))
    told = json.loads(gsr("generate", "1 * 2", "--raw", "--params", str(file), "--json").stdout)
    found = told["prompt_logprobs"]
    assert (found is not None) == tops
    if tops:
        assert found["logprobs"][0] is None
        assert len(found["top_logprobs"]) == len(found["logprobs"]) > 1
        assert [len(top) for top in found["top_logprobs"][1:]] == [2] * (len(found["logprobs"]) - 1)


@pytest.mark.parametrize("where", ["between two steps", "in a step"])
@pytest.mark.parametrize("command", ["solve", "generate"])
def test_ctrl_c_prints_what_is_there(
    command: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = Progress if where == "between two steps" else Pipeline
    steps, plain = iter(range(100)), kind.step

    def step(*arguments: Any) -> None:
        if next(steps) == 9:
            raise KeyboardInterrupt
        plain(*arguments)

    monkeypatch.setattr(kind, "step", step)
    several = "--k" if command == "solve" else "--n"
    done = gsr(command, PROBLEM, several, "2", "--seed", "1", "--json")
    assert done.exit_code == 130
    assert done.stderr.endswith("gsr: interrupted\n")
    told = json.loads(done.stdout)
    streams = told["candidates"] if command == "solve" else told["completions"]
    assert [one["finish_reason"] for one in streams] == ["abort", "abort"]
    assert min(one["tokens"] for one in streams) > 5
    assert told["error"] == "interrupted"


def test_ctrl_c_while_it_imports_is_one_line() -> None:
    interrupts = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""
    done = subprocess.run(
        [sys.executable, "-c", interrupts + MAIN, "generate", "a"], text=True, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "gsr: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, "generate", "a", "--max-tokens", "1"],
            text=True,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "gsr: [Errno 28] No space left on device"


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C"}, {"PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}]
)
def test_what_a_model_wrote_is_utf8_in_any_locale(locale: dict[str, str]) -> None:
    text = "ħ → 数 \t:100: \x07" + "x" * 100
    fake = f"""
from gsr_engine import Completion, Engine, GenerateResult, SamplingParams, Usage
one = Completion(0, {text!a}, [5], [0.0], "stop", 1)
Engine.run = lambda self, requests, step: [GenerateResult([1], [one], Usage(), SamplingParams())]
"""
    done = subprocess.run(
        [sys.executable, "-c", fake + MAIN, "generate", "a", "--raw"],
        capture_output=True,
        env={**os.environ, **locale},
    )
    assert done.stdout == text.encode() + b"\n"


def test_a_command_takes_the_memory_that_its_request_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.from_pretrained(NANO, kv_cache_gib=1e-6) as engine:
        page = engine.limits.page_bytes
    arguments = ("generate", PROBLEM, "--max-tokens", "1000", "--temperature", "0", "--json")
    for free, runs in ((80, True), (50, False)):  # 66 pages are needed
        monkeypatch.setattr(device, "free_memory", lambda free=free: free * page)
        monkeypatch.setattr(host_memory, "free_memory", lambda free=free: free * page)
        done = gsr(*arguments)
        assert (done.exit_code == 0) is runs
        if not runs:
            assert isinstance(done.exception, PoolTooSmall)
            assert "the largest max_tokens that fits is" in str(done.exception)


def test_a_note_says_what_nano_is() -> None:
    assert "only" in gsr("generate", PROBLEM, "--max-tokens", "1").stderr
