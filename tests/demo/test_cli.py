"""The command line as a user meets it; the model is the one in the box."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import gsr_engine
from gsr_engine.demo.puzzles import readable, sample_puzzles
from gsr_engine.demo.report import NANO

pytestmark = pytest.mark.slow


def gsr(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", "from gsr_engine.cli import main; main()", *arguments],
        text=True,
        capture_output=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def problem() -> str:
    return sample_puzzles("validation", 0, 1)[0].problem


def test_demo_prints_examples_and_tables() -> None:
    text = gsr("demo", "--puzzles", "48").stdout
    assert "48 held-out puzzles" in text
    for word in ("pass@1", "maj@4", "selfRef@4", "refine_prefill", "candidate 4", "✗", "→"):
        assert word in text
    assert "\x1b[" not in text  # plain where there is no terminal


def test_demo_json_has_the_documented_keys() -> None:
    report = json.loads(gsr("demo", "--puzzles", "32", "--json").stdout)
    assert set(report) == {
        "puzzles",
        "k",
        "pass@1",
        "maj@4",
        "pass@4",
        "selfRef@4",
        "by_num_correct",
        "phases",
        "seconds",
        "tokens_per_second",
    }
    assert set(report["selfRef@4"]) == {"linear", "branched"}
    assert sum(row["puzzles"] for row in report["by_num_correct"]["linear"].values()) == 32
    linear, branched = report["phases"]["linear"], report["phases"]["branched"]
    assert (
        branched["refine_prefill"]["tokens_computed"] < linear["refine_prefill"]["tokens_computed"]
    )
    assert branched["refine_prefill"]["tokens_reused"] > linear["refine_prefill"]["tokens_reused"]


def test_solve_repeats_from_its_seed(problem: str) -> None:
    arguments = ("solve", problem, "--k", "3", "--layout", "branched", "--seed", "5")
    first, second = (json.loads(gsr(*arguments, "--json").stdout) for _ in range(2))
    for measured in ("usage", "seconds", "tokens_per_second"):
        first.pop(measured)
        second.pop(measured)
    assert first == second
    assert len(first["candidates"]) == 3
    assert "answer: " in gsr(*arguments).stdout


def test_generate(problem: str) -> None:
    out = json.loads(gsr("generate", problem, "--n", "2", "--max-tokens", "9", "--json").stdout)
    assert [c["tokens"] for c in out["completions"]] == [9, 9]
    assert gsr(
        "generate", "a0b1", "--raw", "--temperature", "0", "--max-tokens", "4"
    ).stdout.strip()


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("solve", "--help"), ("solve", "x", "--no-such")]
)
def test_torch_is_not_imported_for(arguments: tuple[str, ...]) -> None:
    script = (
        "import sys\nfrom gsr_engine.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    print('torch imported:', 'torch' in sys.modules, end.code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], text=True, capture_output=True
    )
    code = 2 if "--no-such" in arguments else 0
    assert f"torch imported: False {code}" in done.stdout, done.stdout + done.stderr


def test_version() -> None:
    assert gsr("--version").stdout == f"gsr-engine {gsr_engine.__version__}\n"


def test_env() -> None:
    facts = json.loads(gsr("env", "--json").stdout)
    assert {"python", "torch", "gpu", "gsr-engine"} <= set(facts)
    taken = int(facts["engine_threads"])
    assert 1 <= taken <= min(int(facts["threads"]), int(facts["affinity"]))
    assert facts["cpu_quota"] == "none" or taken <= float(facts["cpu_quota"]) + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("solve", "x", "--k", "0"), "gsr: k: must be an integer from 1 to 256, got 0"),
        (("solve", "x", "--threads", "0"), "gsr: --threads: must be an integer from 1 to 1024"),
        (("solve", "x", "--layout", "spiral"), "gsr: layout: must be one of linear, branched"),
        (("solve", " "), "gsr: problem: is empty"),
        (("solve", "x", "--model", "/nowhere"), "gsr: /nowhere is not a folder"),
        (("generate", "x", "--dtype", "int4"), "gsr: --dtype: must be auto, float32 or bfloat16"),
        (("generate", "x" * 5000), "gsr: prompt: has 5003 tokens"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    error = gsr(*arguments, code=2).stderr.strip()
    *notes, line = error.splitlines()
    assert line.startswith(message)
    assert all(note.startswith("note: ") for note in notes)  # what a loaded model takes


def test_nano_is_an_ordinary_checkpoint() -> None:
    """transformers loads it, its tokenizer spells every puzzle, and it is small."""
    model = AutoModelForCausalLM.from_pretrained(NANO)
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert (Path(NANO) / "model.safetensors").stat().st_size <= 8 * 2**20
    for puzzle in sample_puzzles("validation", 1, 40):
        for text in (puzzle.problem, puzzle.solution):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text
        assert readable(puzzle.problem)
