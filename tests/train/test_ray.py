"""The Ray Data adapter on a local Ray: the same store, to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gsr_engine import InvalidRequest
from tests.helpers.drawers import contents
from train.generate import run
from train.generation.job import GenerationJob

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        configure_logging=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


def test_actors_fill_the_same_store(cluster: None, qwen2: Path, tmp_path: Path) -> None:
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(f'{{"problem": "{c}+1", "answer": "2"}}\n' for c in "abcdefghij"))
    job = GenerationJob(
        task="direct",
        data=str(data),
        model=str(qwen2),
        out=tmp_path / "ray",
        n=2,
        max_tokens=12,
        shard_size=1,
        dtype="float32",
    )
    tally = run(job, 2, ray=True)
    assert tally.samples == tally.graded == 20
    run(replace(job, out=tmp_path / "here"), 1)
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    with pytest.raises(InvalidRequest, match="budget_tokens"):
        run(replace(job, budget_tokens=10**6), 1, ray=True)
