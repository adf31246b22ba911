"""A process that ends while an `AsyncEngine` computes, and does not close it, ends as it wanted."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, os, sys
from gsr_engine import AsyncEngine, SamplingParams
from gsr_engine.demo.report import NANO

async def main():
    global engine, events
    engine = AsyncEngine.from_pretrained(NANO, dtype="float32", device="cpu")
    endless = SamplingParams(n=64, max_tokens=1900, ignore_eos=True)
    events = engine.generate("1 * 2", endless)
    for _ in range(3):
        await anext(events)
    print("computing", flush=True)

asyncio.new_event_loop().run_until_complete(main())
"""


@pytest.mark.parametrize(
    ("ending", "status", "message"),
    [
        ("", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("raise ValueError('of the host')", 1, "ValueError: of the host"),
        ("os._exit(5)", 5, ""),
        ("os.fork() or sys.exit(7); os._exit(os.waitstatus_to_exitcode(os.wait()[1]))", 7, ""),
        ("asyncio.run(engine.close()); sys.exit(4)", 4, ""),
    ],
)
def test_the_exit_status_is_what_the_host_wanted(ending: str, status: int, message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + ending], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (status, "computing\n"), done.stderr
    assert message in done.stderr
    assert "Fatal" not in done.stderr
