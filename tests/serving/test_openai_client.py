"""OpenAI's client, the oldest major that users have and the newest, against a live server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gsr_engine.demo.puzzles import sample_puzzles
from tests.helpers import openai_client

ROOT = Path(__file__).parent.parent.parent
OLDEST = "openai<2"
PROBLEM = sample_puzzles("test", 3, 2)[0].problem


@pytest.fixture(scope="session")
def oldest() -> Path:
    """The Python of an environment of its own, kept in `runs/`."""
    folder = ROOT / "runs" / "openai-oldest"
    python = folder / "bin" / "python"
    if (
        python.exists()
        and not subprocess.run([python, "-c", "import openai"], check=False).returncode
    ):
        return python
    for command in (
        [sys.executable, "-m", "venv", folder],
        [python, "-m", "pip", "install", "--quiet", OLDEST],
    ):
        if subprocess.run(command, check=False, timeout=300).returncode:
            pytest.skip(f"{OLDEST} cannot be installed here")
    return python


def version(python: str | Path, address: str) -> str:
    command = [python, openai_client.__file__, address, "nano", PROBLEM]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_newest(address: str) -> None:
    assert int(version(sys.executable, address).split(".")[0]) >= 3


def test_the_oldest(address: str, oldest: Path) -> None:
    assert int(version(oldest, address).split(".")[0]) == 1
