"""Runs a job on a peer: in this process, or in the peer's own environment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers import transformers_batching, transformers_generate
from benchmarks.peers.install import ROOT, python_of
from benchmarks.peers.job import Job, JobResult, read_result, write_json
from benchmarks.peers.training_job import TrainingJob

IN_PROCESS: dict[str, Callable[[Job], JobResult]] = {
    "transformers": transformers_generate.run,
    "transformers-batching": transformers_batching.run,
}
SEPARATE = ("openvino", "vllm")
PEERS = (*IN_PROCESS, *SEPARATE)
_CHECKOUT = Path(__file__).parents[2]


class PeerSkipped(Exception):
    """A peer gave no figures; the message says why."""


def run_peer(name: str, job: Job, out: Path, root: Path = ROOT) -> JobResult:
    """A peer's figures for a job; what it prints goes to `out`.

    Raises:
        PeerSkipped: it is not installed, or failed.
    """
    if name in IN_PROCESS:
        try:
            return IN_PROCESS[name](job)
        except Exception as error:  # one broken peer must not lose the figures of the others
            raise PeerSkipped(f"failed: {type(error).__name__}: {error}") from error
    return read_result(call_peer(name, job, out, root))


def call_peer(name: str, job: Job | TrainingJob, out: Path, root: Path = ROOT) -> Path:
    """Run a job in a peer's own environment; returns the file with its result.

    Raises:
        PeerSkipped: it is not installed, or failed.
    """
    python = python_of(name, root)
    if not python.exists():
        raise PeerSkipped(f"not installed: python -m benchmarks.peers.install {name}")
    order, answer, log = (out / f"{name}.{kind}" for kind in ("job.json", "result.json", "log"))
    write_json(order, job)
    answer.unlink(missing_ok=True)
    module = f"benchmarks.peers.{name}_peer"
    command: list[str | Path] = [python, "-m", module, order.absolute(), answer.absolute()]
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(  # noqa: S603
            command,
            cwd=_CHECKOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(job.threads)},
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode or not answer.exists():
        raise PeerSkipped(f"failed with status {done.returncode}, see {log}")
    return answer
