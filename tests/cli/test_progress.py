"""The counter on stderr."""

from __future__ import annotations

import pytest

from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.cli import progress
from gsr_engine.cli.progress import Progress
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO

PROBLEM = sample_puzzles("validation", 5, 1)[0].problem


def test_it_counts_tokens_and_finished_streams(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    cap = SamplingParams(max_tokens=6, min_tokens=6)
    with Engine.from_pretrained(NANO, dtype="float32", kv_cache_gib=0.01) as engine:
        params = SelfRefineParams(k=2, candidate=cap, refine=cap, seed=1)
        request = engine.new_self_refine(PROBLEM, params)
        now = iter(range(1000))
        with Progress(request, clock=lambda: float(next(now))) as shown:
            engine.run([request], shown.step)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert "\x1b" not in captured.err
    assert lines[0].startswith("candidates: 2 tokens, 0 of 2 done, ")
    assert any(line.startswith("candidates: 10 tokens, 0 of 2 done, ") for line in lines)
    assert lines[-1].startswith("refinement: 6 tokens, ")
    assert lines[-1].endswith(" tokens/s")


def test_streams_of_generate() -> None:
    with Engine.from_pretrained(NANO, dtype="float32", kv_cache_gib=0.01) as engine:
        request = engine.new_generate(PROBLEM, SamplingParams(n=3, max_tokens=2))
        shown = Progress(request, clock=lambda: 0.0)
        assert shown.line() == "streams: reading the prompt, 0 s"
        engine.run([request])
        assert shown.line() == "streams: 6 tokens, 3 of 3 done, 0 tokens/s"
