"""The trainer's benchmark measures the rows that it names, and skips a peer that is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.peers.run import PeerSkipped
from benchmarks.training.throughput import TrainingWork, measure
from benchmarks.training.throughput_table import show
from tests.helpers.tiny import plain_losses

pytestmark = pytest.mark.slow


def test_our_run_learns_the_rows_of_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    work = TrainingWork("tiny", batch=2, steps=2, pack=2000, out=tmp_path)
    result = work.ours("none")
    assert result.tokens == [sum(map(len, work.rows_of_step(step))) for step in range(2)]
    rows = work.rows_of_step(0)
    losses, _ = plain_losses(tmp_path / "runs/random-weights/tiny", rows)
    counts = {row.objective: row.num_targets for row in rows}
    mean = (losses[0] * counts["direct"] + losses[1] * counts["refine"]) / sum(counts.values())
    assert result.losses[0] == pytest.approx(float(mean), abs=1e-3)
    monkeypatch.setattr(work, "ours", lambda _: result)

    def missing(*_: object) -> None:
        raise PeerSkipped("not installed")

    monkeypatch.setattr(work, "theirs", missing)
    run = measure(work, [1], 1, Console(quiet=True))
    assert set(run["skipped"].values()) == {"not installed"}
    assert len(run["results"]) == 3
    console = Console(record=True, width=100)
    work_facts = {"shape": "tiny", "steps": 2, "batch": 2, "rows": 4, "tokens": 9, "targets": 4}
    show(console, run | {"work": {**work_facts, "shortest": 1, "longest": 9}, "machine": {}})
    assert "not installed" in console.export_text()
