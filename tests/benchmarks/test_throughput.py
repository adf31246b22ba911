"""The throughput benchmark runs end to end on a tiny shape; no test is timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks.peers.install import needed
from benchmarks.peers.job import JobResult, do_job
from benchmarks.throughput import profile
from benchmarks.throughput.__main__ import main
from benchmarks.throughput.floor import product_seconds
from benchmarks.throughput.machine_limits import Limits, Products, chip
from benchmarks.throughput.rounds import PeerSkipped, Rounds
from benchmarks.throughput.table import best_peer
from benchmarks.throughput.word_problems import word_problems
from benchmarks.throughput.works import WorkSize
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.model.linear import Linear
from gsr_engine.speed import machine_limits
from tests.helpers.peer_job import JOB

pytestmark = pytest.mark.slow


def run(out: Path, peers: str, **options: Any) -> None:
    settings: dict[str, Any] = {
        "shape": "tiny",
        "model": None,
        "work": "2x3:16/12/6",
        "rounds": 1,
        "repeats": 0,
        "peers": peers,
        "quantization": "none",
        "sharing_off": True,
        "speculative": None,
        "problems": None,
        "dtype": "float32",
        "threads": None,
        "kv_gib": 0.1,
        "out": out,
    }
    main(**(settings | options))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints and environments are looked for in a fresh folder; figures may be rough."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine_limits, "REPEAT_SECONDS", 0.0)
    monkeypatch.setattr("benchmarks.steadiness.PRODUCT_SECONDS", 0.0)


def test_every_engine_has_its_figures_and_absent_peers_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "out", "transformers,openvino", rounds=2)
    folder = tmp_path / "out/tiny-2x3-16-12-6"
    measured = json.loads((folder / "throughput.json").read_text())
    assert list(measured["results"]) == ["linear", "branched", "sharing off", "transformers"]
    for name, result in measured["results"].items():
        assert result["tokens"] == 2 * (3 * 12 + 6)
        each = [one["result"] for one in measured["runs"][name]]
        assert result["runs"] == len(each) == 2
        for phase in ("seconds_candidates", "seconds_refine"):
            assert result[phase] == min(one[phase] for one in each) > 0
    (limits,) = measured["limits"].values()
    assert [row["rows"] for row in limits["products"]] == [1, 2, 3, 6]
    assert limits["copy_gb"] > 0
    # A linear refinement reads its candidates again, a branched one does not.
    tokens = measured["phase_tokens"]
    assert tokens["linear"]["refine_prefill"] > tokens["branched"]["refine_prefill"] > 0
    assert tokens["linear"]["candidate_decode"] == 2 * 3 * (12 - 1)
    printed = capsys.readouterr().out
    assert "openvino: not installed: python -m benchmarks.peers.install openvino" in printed
    assert "best peer: transformers" in printed
    assert (folder / "throughput.txt").read_text().strip() in printed


def test_a_real_model_runs_at_fixed_lengths_without_ignoring_its_end(
    tmp_path: Path, qwen2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "", shape="", model=qwen2, work="1x2:9/8/4,2x2:9/4/4", sharing_off=False)
    assert capsys.readouterr().out.count("no peer gave figures") == 2
    for size, tokens in (("1x2-9-8-4", 20), ("2x2-9-4-4", 24)):
        run_of = json.loads((tmp_path / f"qwen2-{size}/throughput.json").read_text())
        assert {one["tokens"] for one in run_of["results"].values()} == {tokens}


def test_eight_bits_run_in_the_same_rounds_with_their_loss(
    tmp_path: Path, qwen2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"shape": "", "model": qwen2, "work": "1x2:9/8/4", "sharing_off": False}
    run(tmp_path, "openvino", quantization="int8", **options)
    run_of = json.loads((tmp_path / "qwen2-1x2-9-8-4/throughput.json").read_text())
    names = ["linear", "branched", "linear int8", "branched int8"]
    assert list(run_of["results"]) == list(run_of["floors"]) == names
    assert list(run_of["skipped"]) == ["openvino", "openvino int8"]
    exact, _, rounded, _ = (result["loss"] for result in run_of["results"].values())
    assert rounded != exact
    assert rounded == pytest.approx(exact, abs=0.05)
    weights = {
        precision: limits["products"][0]["weight_gb"] * limits["products"][0]["seconds"]
        for precision, limits in run_of["limits"].items()
    }
    assert list(weights) == ["float32", "int8"]
    assert weights["int8"] < 0.5 * weights["float32"]
    assert f"{rounded:.4f}" in capsys.readouterr().out


def outcome(tokens: int, loss: float | None) -> dict[str, Any]:
    return {"tokens": tokens, "seconds_candidates": 1.0, "seconds_refine": 1.0, "loss": loss}


def test_the_best_peer_near_fp32_may_be_another_than_the_fastest() -> None:
    figures = {
        "linear": outcome(50, 3.0),
        "linear int8": outcome(90, 3.0),
        "transformers": outcome(10, None),
        "openvino": outcome(20, 3.001),
        "llama-cpp int8": outcome(30, 3.009),
        "openvino int8": outcome(40, 3.011),
    }
    assert best_peer(figures) == "openvino int8"
    assert best_peer(figures, near_fp32=True) == "llama-cpp int8"
    unknown = {name: row | {"loss": None} for name, row in figures.items()}
    assert best_peer(unknown, near_fp32=True) == "openvino"
    assert best_peer({"linear": outcome(1, None)}) is None


def test_bad_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="'exllama' is none of transformers"):
        run(tmp_path, "exllama")
    with pytest.raises(typer.BadParameter, match="'8x8' is no work such as 8x8:128"):
        run(tmp_path, "", work="8x8")
    with pytest.raises(typer.BadParameter, match="k and lengths of answers must be 2 or more"):
        run(tmp_path, "", work="8x1:16/16/16")
    with pytest.raises(typer.BadParameter, match="problems of 0 tokens are for --speculative"):
        run(tmp_path, "", work="8x2:0/16/16")
    with pytest.raises(typer.BadParameter, match="there must be a problem"):
        run(tmp_path, "", work="0x2:16/16/16")
    with pytest.raises(typer.BadParameter, match="problems: it is for --speculative only"):
        run(tmp_path, "", problems=2)
    assert str(WorkSize.parsed("1x4:256/1024/512")) == "1x4:256/1024/512"


def results(*seconds: tuple[float, float]) -> Callable[[], JobResult]:
    """An engine that takes these seconds, run by run."""
    left = iter(seconds)

    def run_once() -> JobResult:
        candidates, refine = next(left)
        return JobResult(seconds_candidates=candidates, seconds_refine=refine, tokens=12)

    return run_once


def test_engines_take_turns_and_each_phase_counts_at_its_best() -> None:
    lines: list[str] = []
    measured = Rounds(rounds=2, repeats=3, time_product=lambda: 1.0)
    measured.measure({"a": results((2, 5), (3, 4)), "b": results((1, 1), (1, 2))}, lines.append)
    turns = [line for line in lines if line.startswith("round")]
    assert turns == ["round 1: a", "round 1: b", "round 2: a", "round 2: b"]
    outcome = measured.outcome("a")
    assert (outcome.seconds_candidates, outcome.seconds_refine) == (2, 4)
    assert (outcome.spread, outcome.steady, outcome.runs) == (1, 2, 2)
    assert measured.outcome("b").spread == 1.5


def test_a_run_on_a_busy_machine_is_repeated_and_then_marked() -> None:
    # Before and after each run: the first one is disturbed, the next is not, the last always.
    product = iter([1.0, 1.2, 1.0, 1.1, *[1.3, 1.3] * 3])
    measured = Rounds(rounds=1, repeats=2, time_product=lambda: next(product))
    engines = {"a": results((9, 9), (2, 2)), "b": results((5, 5), (3, 6), (6, 3))}
    measured.measure(engines, lambda _: None)
    once, never = measured.outcome("a"), measured.outcome("b")
    assert (once.steady, once.runs, once.spread) == (1, 2, 1)
    assert (never.steady, never.runs) == (0, 3)
    assert (never.seconds_candidates, never.seconds_refine) == (3, 3)


def test_a_peer_that_fails_keeps_the_figures_that_it_gave() -> None:
    answers = results((1, 1))

    def peer() -> JobResult:
        try:
            return answers()
        except StopIteration:
            raise PeerSkipped("broken") from None

    measured = Rounds(rounds=3, repeats=0, time_product=lambda: 1.0)
    measured.measure({"ours": results(*[(1, 1)] * 3), "peer": peer}, lambda _: None)
    assert measured.skipped == {"peer": "broken"}
    assert (measured.outcome("ours").runs, measured.outcome("peer").runs) == (3, 1)


def test_the_floor_counts_prompts_by_the_token_and_answers_by_the_step() -> None:
    def products(rows: int, seconds: float) -> Products:
        return Products(rows, seconds, seconds, 1.0, 1.0)

    busy = Limits(7.0, [products(2, 0.9), products(8, 0.5)], products(100, 1.0))
    quiet = Limits(5.0, [products(2, 0.2), products(8, 0.8)], products(100, 2.0))
    limits = busy.or_better(quiet)
    phases = {"candidate": (300, 80), "refine": (50, 6)}
    tokens = {
        f"{phase}_{kind}": n
        for phase, both in phases.items()
        for kind, n in zip(("prefill", "decode"), both, strict=True)
    }
    seconds = product_seconds(tokens, limits, {"candidates": 8, "refine": 2})
    assert seconds == pytest.approx({"candidates": 3.0 + 10 * 0.5, "refine": 0.5 + 3 * 0.2})
    assert limits.copy_gb == 7.0


def test_a_chip_is_named_with_what_multiplies(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_bf16 sse\n")
    assert chip(info).endswith(" avx2 avx512 bf16")
    assert chip(tmp_path / "missing")


def test_word_problems_have_their_length_and_differ(qwen2: Path) -> None:
    tokenizer = Tokenizer.from_folder(qwen2)
    texts = word_problems(4, 40, tokenizer)
    assert len(set(texts)) == 4
    assert texts == word_problems(4, 40, tokenizer)
    for text in texts:
        assert abs(len(tokenizer.encode_text(text)) - 40) <= 1


def test_a_profile_adds_up_and_leaves_the_engine_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Linear.__call__
    profile.main(
        shape="tiny",
        model=None,
        layout="branched",
        work="2x3:16/12/6",
        dtype="float32",
        quantization="none",
        threads=None,
        kv_gib=0.1,
        out=tmp_path / "profile.txt",
    )
    assert Linear.__call__ is before
    printed = capsys.readouterr().out
    assert (tmp_path / "profile.txt").read_text().strip() in printed
    header, *rows = [line.split("│") for line in printed.splitlines() if "│" in line or "┃" in line]
    assert all(kind in header[0] for kind in ("decode × 6", "decode × 2", "prefill"))
    parts = {row[1].strip(): float(row[2]) for row in rows if len(row) == len(rows[0])}
    assert {"products", "rms_norm", "between steps"} <= parts.keys()
    total = parts.pop("sum")
    assert sum(parts.values()) == pytest.approx(total, abs=0.01 * len(parts))


def test_a_job_counts_its_tokens_and_no_run_repeats_a_prompt() -> None:
    assert (JOB.tokens, JOB.longest) == (2 * 2 * 3 + 2 * 5, 9)
    asked = []

    def generate(prompts: list[list[int]], n: int, tokens: int) -> int:
        asked.append((prompts, n, tokens))
        return len(prompts) * n * tokens

    do_job(JOB, generate, {"engine": "1"})
    assert asked[1:] == [(JOB.prompts, 2, 3), (JOB.refine_prompts, 1, 5)]
    assert asked[0][0] == [[8, 7], [10, 9]]  # what warms up is in no prefix cache later
    with pytest.raises(ValueError, match="0 \\+ 0 tokens came, 22 were asked for"):
        do_job(JOB, lambda *_: 0, {})
    first, second = JOB.marked(1), JOB.marked(2)
    assert first.prompts[0][0] == first.refine_prompts[0][0] != second.prompts[0][0]
    assert [prompt[1:] for prompt in second.refine_prompts] == [[8, 11], [10, 11, 12]]


def test_what_a_language_model_does_not_need_is_left_out() -> None:
    required = ["torch==2.13.0", "torchvision", "torchaudio>=2 ; x", "numpy>2", "transformers[a]>5"]
    assert needed(required) == ["numpy>2", "transformers[a]>5"]
