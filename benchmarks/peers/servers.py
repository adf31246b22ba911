"""Servers of OpenAI's API in processes of their own: ours, and vLLM on the CPU."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from benchmarks.peers.install import python_of
from benchmarks.peers.run import PeerSkipped
from gsr_engine.errors import GsrError

NAME = "served"
"""What requests call the model."""
_CHECKOUT = Path(__file__).parents[2]
_START_SECONDS = 600.0
_END_SECONDS = 30.0


class NotAnswered(GsrError):
    """A problem got no answer: it was refused, or failed; the message says by whom, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a server runs its model.

    Attributes:
        model: checkpoint folder.
        dtype: to compute in.
        threads: to compute with.
        kv_gib: memory for keys and values.
        out: folder for logs.
    """

    model: Path
    dtype: str
    threads: int
    kv_gib: float
    out: Path


class Server:
    """A server process; as a context manager it has started, and ends.

    Args:
        name: of its log.
        command: without the port.
        setting: threads, and the folder of the log.
        variables: of the environment.
    """

    def __init__(
        self, name: str, command: list[str | Path], setting: Setting, variables: dict[str, str]
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = setting.out / f"{name}.log"
        setting.out.mkdir(parents=True, exist_ok=True)
        threads = {"OMP_NUM_THREADS": str(setting.threads)}
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [*command, "--port", str(port)],
                cwd=_CHECKOUT,
                env={**os.environ, **threads, **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        """Wait until it serves.

        Raises:
            PeerSkipped: it ended, or takes too long.
        """
        ends = time.monotonic() + _START_SECONDS
        while not self._serves():
            if self._process.poll() is not None or time.monotonic() > ends:
                self.__exit__()
                raise PeerSkipped(f"the server did not start, see {self._log}")
            time.sleep(0.1)
        return self

    def _serves(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def pages_used(self, client: httpx.AsyncClient) -> float | None:
        """KV pages of 16 tokens: the most so far where the server counts them, else those now.

        None if it does not tell.
        """
        text = (await client.get("/metrics")).text
        peak = metric(text, "gsr_kv_pages_peak")
        if peak is not None:
            return peak
        share = metric(text, "vllm:kv_cache_usage_perc") or 0.0
        blocks = re.search(r'vllm:cache_config_info\{.*num_gpu_blocks="(\d+)"', text)
        return share * int(blocks[1]) if blocks else None


def metric(text: str, name: str) -> float | None:
    """The value of the first sample of a metric in Prometheus' text; None if there is none."""
    found = re.search(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.M)
    return float(found[1]) if found else None


def ours(setting: Setting) -> Server:
    """`gsr serve`; it ends at once, and draws from the model's own distribution."""
    command: list[str | Path] = [sys.executable, "-c", "from gsr_engine.cli import main; main()"]
    options = {
        "--model-name": NAME,
        "--dtype": setting.dtype,
        "--threads": str(setting.threads),
        "--kv-cache-gib": str(setting.kv_gib),
        "--generation-config": "none",
        "--max-pending": "10000",
        "--shutdown-delay": "0",
        "--shutdown-timeout": "0",
    }
    flags = [part for pair in options.items() for part in pair]
    return Server("ours", [*command, "serve", setting.model, *flags], setting, {})


def vllm(setting: Setting, max_model_len: int) -> Server:
    """The server of vLLM, in the environment of `benchmarks.peers.install`; it draws likewise.

    Raises:
        PeerSkipped: it is not installed.
    """
    python = python_of("vllm")
    if not python.exists():
        raise PeerSkipped("not installed: python -m benchmarks.peers.install vllm")
    options = {
        "--model": str(setting.model),
        "--served-model-name": NAME,
        "--dtype": setting.dtype,
        "--max-model-len": str(max_model_len),
        "--block-size": "16",
        "--generation-config": "vllm",
    }
    flags = [part for pair in options.items() for part in pair]
    command: list[str | Path] = [python, "-m", "vllm.entrypoints.openai.api_server", *flags]
    space = {"VLLM_CPU_KVCACHE_SPACE": str(max(1, round(setting.kv_gib)))}
    return Server("vllm", command, setting, space)
