"""The process of one part: made while the part before it runs, told to begin, ended at its time."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.gpu_check import CHECKOUT
from benchmarks.gpu_check.record import Row


class PartProcess:
    """A command that imports what it needs at once, and begins when it reads its seconds.

    Imports take 8 seconds a part; made one part ahead, they cost nothing. What it writes to stderr
    goes to `log` when it ends.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._log = log
        # Closed by `end`.
        self._words = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # A new process group, so that its children end with it.
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stderr=self._words,
            env=environment,
            process_group=0,
            text=True,
        )

    def run(self, seconds: float, grace: float = 0.0) -> Row | None:
        """Let it begin, for `seconds`; a running case may take `grace` more. Then it is ended.

        Returns:
            What to write down if it did not end by itself: `skipped` if its time was over, `failed`
            with its last words if it died.
        """
        begin, most = self._process.stdin, max(0.0, seconds + grace)
        with suppress(OSError):  # it is dead already
            if begin is not None:
                begin.write(f"{seconds}\n")
                begin.close()
        try:
            status = self._process.wait(most)
        except subprocess.TimeoutExpired:
            stopped = f"stopped after {most:.0f} s, with what was running"
            return {"skipped": stopped if most else "no time left"}
        finally:
            words = self.end()
        if status == 0:
            return None
        last = words.strip().rpartition("\n")[2]
        return {"failed": f"ended with status {status}: {last[-200:]}"}

    def end(self) -> str:
        """Kill it and its children, and keep its stderr, which is returned."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # a hung GPU may keep it for ever
            self._process.wait(5)
        if self._words.closed:
            return ""
        with self._words:
            self._words.seek(0)
            words = self._words.read()
        with self._log.open("a", encoding="utf-8") as file:
            file.write(words)
        return words
