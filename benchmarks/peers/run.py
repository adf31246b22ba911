"""Runs jobs on peers, each in a process and, where it needs one, in an environment of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from benchmarks.peers.install import ROOT, python_of
from benchmarks.peers.job import Job
from benchmarks.peers.training_job import TrainingJob

# Those that need no environment of their own, and their modules.
_HERE = ("transformers", "transformers-batching")
_MODULES = {
    "transformers": "transformers_generate",
    "transformers-batching": "transformers_batching",
    "openvino": "openvino_peer",
    "llama-cpp": "llama_cpp_peer",
    "vllm": "vllm_peer",
    "sglang": "sglang_peer",
    "trl": "trl_peer",
}
PEERS = {
    "cpu": ("transformers", "transformers-batching", "openvino", "llama-cpp", "vllm"),
    "cuda": ("transformers", "vllm", "sglang"),
}
"""The engines that do a `Job`, by device."""
PEERS_IN_INT8 = ("openvino", "llama-cpp")
"""Those of them that do it in their own 8 bits, too."""
_CHECKOUT = Path(__file__).parents[2]
_CLOSING_SECONDS = 10


class PeerSkipped(Exception):
    """A peer gave no figures; the message says why."""


class PeerProcess:
    """The process of a peer: it loads its model for the first job, and is stopped between jobs.

    A stopped process takes no time from the others, whatever its threads do while they wait.

    Args:
        name: of the peer.
        threads: for OpenMP.
        out: folder for its log, which holds all that it prints.
        root: folder of the peers' environments.
        device: that its environment is for.

    Raises:
        PeerSkipped: it is not installed.
    """

    def __init__(
        self, name: str, threads: int, out: Path, root: Path = ROOT, device: str = "cpu"
    ) -> None:
        python = Path(sys.executable) if name in _HERE else python_of(name, root, device)
        if not python.exists():
            command = f"python -m benchmarks.peers.install {name}"
            where = "" if device == "cpu" else f" --device {device}"
            raise PeerSkipped(f"not installed: {command}{where}")
        self._log = out / f"{name}.log"
        reads, writes = os.pipe()
        self._answers = os.fdopen(reads, encoding="utf-8")
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [python, "-m", f"benchmarks.peers.{_MODULES[name]}", str(writes)],
                cwd=_CHECKOUT,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(writes,),
                text=True,
                # A group of its own, so that its children are stopped with it. If this process
                # dies, the kernel hangs the group up and continues it.
                process_group=0,
            )
        os.close(writes)

    def ask(self, job: Job | TrainingJob) -> dict[str, Any]:
        """The fields of the result.

        Raises:
            PeerSkipped: it failed.
        """
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101  # it is a pipe
        self._signal(signal.SIGCONT)
        with suppress(BrokenPipeError):  # then it gives no answer
            stdin.write(json.dumps(asdict(job)) + "\n")
            stdin.flush()
        line = self._answers.readline()
        if not line:
            raise PeerSkipped(f"failed with status {self._process.wait()}, see {self._log}")
        self._signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._signal(signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired, BrokenPipeError):
            self._process.communicate(timeout=_CLOSING_SECONDS)  # closes its stdin
        self._signal(signal.SIGKILL)  # what is left of its group
        self._process.wait()
        self._answers.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
