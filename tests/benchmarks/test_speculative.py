"""`benchmarks.throughput --speculative` runs end to end on nano; no test is timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks.throughput.__main__ import main
from benchmarks.throughput.lookup_comparison import (
    WAYS,
    WITH,
    Arithmetic,
    Counts,
    EnginePair,
    LookupComparison,
)
from benchmarks.throughput.speculative import texts_of
from benchmarks.throughput.works import WorkSize
from gsr_engine import Engine, InvalidRequest, RefineResult
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from tests.helpers.drafts import FREE

pytestmark = pytest.mark.slow

PUZZLES = [puzzle.problem for puzzle in sample_puzzles("test", 1, 2)]
FP32 = Arithmetic(dtype="float32", quantization="none")


def run(out: Path, data: str, **options: Any) -> None:
    settings: dict[str, Any] = {
        "shape": None,
        "model": None,
        "work": None,
        "rounds": 1,
        "repeats": 0,
        "peers": None,
        "quantization": "none",
        "sharing_off": None,
        "speculative": data,
        "problems": 2,
        "dtype": "float32",
        "threads": None,
        "kv_gib": 0.05,
        "out": out,
    }
    main(**(settings | options))


@pytest.fixture(autouse=True)
def every_draft_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without measured costs all that can be proposed is verified; figures may be rough."""
    monkeypatch.setattr("gsr_engine.execution.device.measure_step_costs", lambda *_: FREE)
    monkeypatch.setattr("benchmarks.steadiness.PRODUCT_SECONDS", 0.0)


@pytest.fixture
def math(tmp_path: Path) -> Path:
    """Five problems that a tokenizer of letters can read."""
    file = tmp_path / "math.jsonl"
    rows = [{"problem": f"abc {number}"} for number in range(5)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_both_layouts_and_precisions_with_equal_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(out, "puzzles", work="1x2:0/90/90,2x2:0/90/90", quantization="int8", rounds=2)
    found = json.loads((out / "speculative.json").read_text())
    cases = found["cases"]
    assert [(c["arithmetic"]["name"], c["work"], c["layout"]) for c in cases] == [
        (precision, work, layout)
        for precision in ("float32", "int8")
        for work in ("1x2:0/90/90", "2x2:0/90/90")
        for layout in ("linear", "branched")
    ]
    for case in cases:
        assert (case["model"], case["data"], case["problems"]) == ("nano", "puzzles", 2)
        assert case["same"] == 2
        counts = case["refinements"]
        assert 0 < counts["accepted"] <= counts["proposed"]
        assert counts["tokens_per_step"] > 1
        for way in WAYS:
            whole, refined = (
                [one["result"] for one in case["runs"][f"{what}, {way} lookup decoding"]]
                for what in ("whole", "refinement")
            )
            assert len(whole) == len(refined) == 2
            totals = [one["seconds_candidates"] + one["seconds_refine"] for one in whole]
            assert case["seconds"][way] == min(totals) > 0
            assert case["decode_seconds"][way] == min(one["seconds_refine"] for one in refined) > 0
            assert {one["tokens"] for one in refined} == {counts["tokens"]}
    printed = capsys.readouterr().out
    assert (out / "speculative.txt").read_text() == printed
    assert f"{cases[0]['seconds']['without'] / cases[0]['seconds']['with']:.2f}" in printed


def test_a_file_and_a_model_that_was_not_trained(tmp_path: Path, math: Path, qwen2: Path) -> None:
    run(tmp_path, f"puzzles,{math}", model=qwen2, work="2x2:0/9/9")
    cases = json.loads((tmp_path / "speculative.json").read_text())["cases"]
    assert [(case["model"], case["data"], case["layout"]) for case in cases] == [
        ("nano", "puzzles", "linear"),
        ("nano", "puzzles", "branched"),
        ("qwen2", "math", "linear"),
        ("qwen2", "math", "branched"),
    ]


def test_problems_are_spread_over_a_file(math: Path, qwen2: Path) -> None:
    (texts,) = texts_of(str(math), qwen2, 2)
    assert texts.problems == ["abc 0", "abc 2"]


class Wrong:
    """An engine that says another last token in the refinement of the last problem."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def self_refine(self, *arguments: Any) -> list[RefineResult]:
        *others, last = self._engine.self_refine(*arguments)
        assert last.refinement
        ids = last.refinement.token_ids
        refinement = replace(last.refinement, token_ids=[*ids[:-1], ids[-1] + 1])
        return [*others, replace(last, refinement=refinement)]

    def close(self) -> None:
        self._engine.close()


def test_other_tokens_fail_where_rows_are_exact_and_are_counted_elsewhere() -> None:
    size = WorkSize(2, 2, 0, 40, 40)
    with EnginePair(NANO, FP32, 0.05) as pair:
        assert pair.is_exact
        pair.engines[WITH] = Wrong(pair.engines[WITH])  # type: ignore[assignment]
        comparison = LookupComparison(pair, PUZZLES, size, "linear")
        plain, wrong, *_ = comparison.runs().values()
        plain()
        with pytest.raises(ValueError, match=r"whole, with lookup.*problems \[1\] differ"):
            wrong()
        pair.is_exact = False
        for again in comparison.runs().values():
            again()
    assert comparison.same == 1


def test_a_run_finds_no_kv_of_another(qwen2: Path) -> None:
    size, problem = WorkSize(1, 2, 0, 9, 9), "abc " * 20  # a prompt of several pages
    with EnginePair(qwen2, FP32, 0.05) as pair:
        comparison = LookupComparison(pair, [problem], size, "linear")
        comparison.warm_up()
        before = cached(pair)
        for run_once in [*comparison.runs().values()] * 2:
            run_once()
        assert cached(pair) == before


def cached(pair: EnginePair) -> float:
    """Tokens that requests found in the prefix caches."""
    phases = [phase for one in pair.engines.values() for phase in one.stats()["phases"].values()]
    return float(sum(phase["reused_cache"] for phase in phases))


def test_refinements_without_a_decode_step_are_refused() -> None:
    with pytest.raises(ValueError, match="ended with its first token"):
        Counts.of([])


def test_bad_options_are_named(tmp_path: Path, math: Path, qwen2: Path) -> None:
    for options, words in (
        ({"work": "1x2:16/9/9"}, "1x2:16/9/9: problems have the length of their texts: give 0"),
        ({"work": "3x2:0/9/9"}, "problems: 2 is no multiple of those of 3x2:0/9/9"),
        ({"shape": "0.5b"}, "shape: it is not for --speculative"),
        ({"peers": "openvino"}, "peers: it is not for --speculative"),
        ({"sharing_off": False}, "sharing-off: it is not for --speculative"),
        ({"model": qwen2}, "model: puzzles are nano's; --speculative names no file"),
    ):
        with pytest.raises(typer.BadParameter, match=words):
            run(tmp_path, "puzzles", **options)
    with pytest.raises(typer.BadParameter, match=r"speculative: '.*math.jsonl' needs a --model"):
        run(tmp_path, str(math))
    with pytest.raises(typer.BadParameter, match=r"problems: .*math.jsonl holds 5, not 6"):
        run(tmp_path, str(math), model=qwen2, problems=6)
    with pytest.raises(InvalidRequest, match=r"there is no .*other.jsonl"):
        run(tmp_path, str(tmp_path / "other.jsonl"), model=qwen2)
