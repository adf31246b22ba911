"""Foreign tools drive a live server, by the commands that SERVING.md prints.

Each tool has an environment of its own in `runs/tools/`, which `make tools` makes. A tool that is
not there is skipped.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOOLS = ROOT / "runs" / "tools"
PAGE = ROOT / "gsr_engine" / "serving" / "SERVING.md"
SERVED = "http://localhost:8000"
"""The server, as the page calls it."""

Run = Callable[..., None]
"""Runs a documented command; arguments replace what the page has in its place."""


def commands(tool: str) -> list[str]:
    """The commands of a tool that the page prints."""
    blocks = re.findall(r"(?:^    .+\n)+", PAGE.read_text(), re.M)
    lines = [re.sub(r"\\\n\s+", "", block).strip() for block in blocks]
    return [line for line in lines if line.startswith(f"{tool} ")]


@pytest.fixture
def run_tool(tmp_path: Path) -> Run:
    """Runs a command in the environment of its tool, without a network, and wants it to succeed."""

    def run(command: str, replaced: dict[str, str], *more: str) -> None:
        tool = command.split()[0]
        program = TOOLS / tool / "bin" / tool
        if not program.exists():
            pytest.skip(f"{tool} is not installed (make tools does it)")
        for old, new in replaced.items():
            assert old in command, f"{PAGE.name} prints no {old!r} any more: {command}"
            command = command.replace(old, new)
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
        done = subprocess.run(
            [program, *shlex.split(command)[1:], *more],
            env={**os.environ, **offline},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run
