"""nano's recipe from nothing to a report, far too short to learn anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import typer

from benchmarks.nano.__main__ import main as judge
from benchmarks.nano.promises import evaluate
from gsr_engine import CheckpointError
from gsr_engine.demo.puzzles import sample_puzzles
from train.nano import Recipe, default_recipe, run_recipe
from train.toy.puzzles import slipped_draft

pytestmark = pytest.mark.slow


def tiny(seed: int = 0) -> Recipe:
    recipe = default_recipe(seed)
    stages = [
        replace(stage, steps=2, own_puzzles=stage.own_puzzles and 3) for stage in recipe.stages[:2]
    ]
    return replace(recipe, stages=tuple(stages), synthetic_puzzles=20)


def test_from_nothing_to_a_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "train")
    model = run_recipe(tiny(), tmp_path / "run")
    assert any("candidates, pass@1" in line for line in caplog.messages)
    caplog.clear()
    run_recipe(tiny(), tmp_path / "run")
    assert len(caplog.messages) == 1  # every stage is done
    assert (tmp_path / "run" / "report.md").read_text().startswith("# own-1")
    with pytest.raises(CheckpointError, match="another recipe"):
        run_recipe(tiny(seed=1), tmp_path / "run")
    run = evaluate(model, 4, tmp_path / "report", "validation", k="1,4")
    assert len(run.samples) == 4
    assert run.settings["data"].startswith("validation ")
    with pytest.raises(typer.Exit):  # it promises nothing that it cannot keep
        judge(model=model, out=tmp_path / "report", run=tmp_path / "report")
    assert (tmp_path / "report" / "report.png").stat().st_size > 10_000
    assert "missed" in (tmp_path / "report" / "report.txt").read_text()


def test_a_draft_slips_at_about_its_rate() -> None:
    import random

    rng = random.Random(0)
    puzzles = sample_puzzles("train", 0, 100)
    assert all(slipped_draft(puzzle, 0.0, rng) == puzzle.trace() for puzzle in puzzles)
    wrong = sum(slipped_draft(puzzle, 0.1, rng) != puzzle.trace() for puzzle in puzzles)
    assert wrong > 50
