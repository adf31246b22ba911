"""The throughput benchmark runs end to end on a tiny shape; no test is timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from benchmarks.peers.install import needed
from benchmarks.peers.job import Job, JobResult, do_job, read_job, read_result, write_json
from benchmarks.peers.run import IN_PROCESS, PeerSkipped, run_peer
from benchmarks.throughput.__main__ import main

pytestmark = pytest.mark.slow

JOB = Job(
    model="nowhere",
    dtype="float32",
    threads=1,
    k=2,
    prompts=[[7, 8], [9, 10]],
    candidate_tokens=3,
    refine_prompts=[[7, 8, 11], [9, 10, 11, 12]],
    refine_tokens=5,
)


def run(out: Path, peers: str) -> dict[str, dict[str, dict[str, float]]]:
    main(
        shape="tiny",
        problems=2,
        k=3,
        prompt=16,
        candidate=12,
        refine=6,
        peers=peers,
        dtype="float32",
        threads=None,
        kv_gib=0.1,
        out=out,
    )
    measured: dict[str, dict[str, dict[str, float]]]
    measured = json.loads((out / "tiny/throughput.json").read_text())
    return measured


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints and environments are looked for in a fresh folder."""
    monkeypatch.chdir(tmp_path)


def test_every_engine_has_its_figures_and_absent_peers_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = run(tmp_path / "out", "transformers,transformers-batching,openvino,vllm")
    ours = ["linear", "branched", "sharing off"]
    assert list(measured["results"]) == [*ours, "transformers", "transformers-batching"]
    for result in measured["results"].values():
        assert result["tokens"] == 2 * (3 * 12 + 6)
        assert result["seconds_candidates"] > 0
        assert result["seconds_refine"] > 0
    assert [row["rows"] for row in measured["limits"]["products"]] == [1, 2, 3, 6]  # type: ignore[index]
    assert measured["limits"]["copy_gb"] > 0  # type: ignore[operator]
    printed = capsys.readouterr().out
    for name in ("openvino", "vllm"):
        assert f"{name}: not installed: python -m benchmarks.peers.install {name}" in printed
    assert "best peer: transformers" in printed
    assert (tmp_path / "out/tiny/throughput.txt").read_text().strip() in printed


def test_without_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(run(tmp_path, "")["results"]) == 3
    assert "no peer gave figures" in capsys.readouterr().out
    with pytest.raises(typer.BadParameter, match="'exllama' is none of transformers"):
        run(tmp_path, "exllama")


def test_a_job_travels_as_json_and_counts_its_tokens(tmp_path: Path) -> None:
    write_json(tmp_path / "job.json", JOB)
    assert read_job(tmp_path / "job.json") == JOB
    assert (JOB.tokens, JOB.longest) == (2 * 2 * 3 + 2 * 5, 9)
    asked = []

    def generate(prompts: list[list[int]], n: int, tokens: int) -> int:
        asked.append((prompts, n, tokens))
        return len(prompts) * n * tokens

    result = do_job(JOB, generate, {"engine": "1"})
    assert asked[1:] == [(JOB.prompts, 2, 3), (JOB.refine_prompts, 1, 5)]
    assert asked[0][0] == [[8, 7], [10, 9]]  # what warms up is in no prefix cache later
    write_json(tmp_path / "result.json", result)
    assert read_result(tmp_path / "result.json") == result
    with pytest.raises(ValueError, match="0 \\+ 0 tokens came, 22 were asked for"):
        do_job(JOB, lambda *_: 0, {})


def test_a_peer_that_fails_is_skipped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PeerSkipped, match="failed: OSError"):
        run_peer("transformers", JOB, tmp_path)
    python = tmp_path / "vllm/venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho no such module; exit 3\n")
    python.chmod(0o755)
    with pytest.raises(PeerSkipped, match=r"failed with status 3, see .*vllm.log"):
        run_peer("vllm", JOB, tmp_path, root=tmp_path)
    assert (tmp_path / "vllm.log").read_text() == "no such module\n"
    python.write_text(
        '#!/bin/sh\necho \'{"seconds_candidates": 1, "seconds_refine": 3, "tokens": 8}\' > $4\n'
    )
    result = run_peer("vllm", JOB, tmp_path, root=tmp_path)
    assert isinstance(result, JobResult)
    assert result.tokens_per_second == 2
    assert set(IN_PROCESS) == {"transformers", "transformers-batching"}


def test_what_a_language_model_does_not_need_is_left_out() -> None:
    required = ["torch==2.13.0", "torchvision", "torchaudio>=2 ; x", "numpy>2", "transformers[a]>5"]
    assert needed(required) == ["numpy>2", "transformers[a]>5"]
