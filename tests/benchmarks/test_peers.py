"""A peer answers jobs in a process of its own; a script stands for the peer here."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.peers.run import PEERS, PeerProcess, PeerSkipped
from benchmarks.peers.text_loss import text_loss
from tests.helpers.peer_job import JOB

ANSWERS = """
import os
from benchmarks.peers.job import Loaded, serve

def load(job):
    print("loading", job.model)
    return Loaded(
        lambda prompts, n, tokens: len(prompts) * n * tokens,
        {"pid": str(os.getpid()), "quantization": str(job.quantization)},
        lambda texts: float(sum(map(len, texts))),
    )

serve(load)
"""


def install(folder: Path, script: str) -> None:
    """Put a script where the environment of vLLM would be."""
    python = folder / "vllm/venv/bin/python"
    python.parent.mkdir(parents=True)
    (folder / "peer.py").write_text(script)
    root = Path(__file__).parents[2]
    python.write_text(f"#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} {folder}/peer.py $3\n")
    python.chmod(0o755)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_peer_loads_once_and_is_stopped_between_jobs(tmp_path: Path) -> None:
    install(tmp_path, ANSWERS)
    with PeerProcess("vllm", 1, tmp_path, root=tmp_path) as peer:
        first = peer.ask(JOB)
        pid = int(first["facts"]["pid"])
        for _ in range(1000):  # a signal takes effect a little later
            if state(pid) == "T":
                break
            time.sleep(0.01)
        assert state(pid) == "T"
        second = peer.ask(replace(JOB, candidate_tokens=4))
        assert (first["tokens"], second["tokens"]) == (22, 26)
        assert second["facts"] == first["facts"]
        assert (first["facts"]["quantization"], first["loss"]) == ("None", None)
        assert peer.ask(replace(JOB, texts=[[1, 2], [3, 4]]))["loss"] == 4.0
    assert not Path(f"/proc/{pid}").exists()
    assert (tmp_path / "vllm.log").read_text() == "loading nowhere\n"


def test_a_peer_that_fails_is_skipped_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(
        PeerSkipped, match=r"not installed: python -m benchmarks.peers.install vllm"
    ):
        PeerProcess("vllm", 1, tmp_path, root=tmp_path)
    install(tmp_path, "print('no such module'); raise SystemExit(3)")
    with PeerProcess("vllm", 1, tmp_path, root=tmp_path) as peer:
        for _ in range(2):
            with pytest.raises(PeerSkipped, match=r"failed with status 3, see .*vllm.log"):
                peer.ask(JOB)


def test_the_trainer_among_the_peers_does_no_such_job() -> None:
    assert not any("trl" in names for names in PEERS.values())


def test_the_loss_of_a_text_is_its_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = 100 * torch.randn(2, 9, 50)  # their exponentials overflow
    texts = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [8, 9, 7, 9, 3, 2, 3, 8, 4]]
    answers = iter(logits.numpy())
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), torch.tensor(texts)[:, 1:].flatten())
    assert text_loss(lambda _: next(answers), texts) == pytest.approx(float(expected))
