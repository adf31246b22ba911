"""`gsr serve` as a process, for tests."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RUN = "from gsr_engine.cli import main; main()"
SOON = 60.0
"""Seconds in which a thing happens on a busy machine, or never."""


class Process:
    """One `gsr serve`, with its log."""

    def __init__(self, *flags: str, before: str = "", **variables: str) -> None:
        command = [sys.executable, "-c", f"{before}\n{RUN}", "serve", "--port", "0", *flags]
        settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
        self.child = subprocess.Popen(
            command, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stderr
        self.log.extend(iter(self.child.stderr.readline, ""))

    def until(self, pattern: str) -> re.Match[str]:
        """Wait for a line of the log."""
        return eventually(lambda: re.search(pattern, "".join(self.log)), self)

    @property
    def url(self) -> str:
        return self.until(r"serving \S+ at (http://\S+)")[1].strip('"}')

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def status(self) -> int:
        """How it ended."""
        status = self.child.wait(SOON)
        self._reader.join()
        return status


def eventually(look: Callable[[], Any], process: Process | None = None) -> Any:
    """What a look finds once it finds something."""
    until = time.monotonic() + SOON
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.02)
    log = "".join(process.log) if process else ""
    raise AssertionError(f"it did not happen within {SOON} s\n{log}")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
