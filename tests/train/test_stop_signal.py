"""The first signal stops after the step, a second one ends it now, and a line says so at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.trainer.stop_signal import StopSignal

ROOT = Path(__file__).parents[2]
LOOP = """
import hashlib, sys, time
from train.command import Interrupted, run_command
from train.trainer.stop_signal import StopSignal

def command():
    with StopSignal() as stop:
        stop.at_once = sys.argv[1] == "at once"
        print("ready", flush=True)
        if sys.argv[1] == "busy":
            # One call, inside of which no handler of Python's runs.
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
        while not stop.received:
            time.sleep(0.01)
        time.sleep(float(sys.argv[2]))
    raise Interrupted(stop.received, "saved")

run_command("name", command)
"""


class Process:
    """A command that waits for a signal inside of a `StopSignal`."""

    def __init__(self, *arguments: str, **more: str) -> None:
        outside = {name: text for name, text in os.environ.items() if "TORCHELASTIC" not in name}
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOOP, *arguments],
            env={**outside, "PYTHONPATH": str(ROOT), **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.line() == "ready"

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str]:
        """Status and the rest of what it said."""
        try:
            said, _ = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
        return self.process.returncode, said.strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_one_is_answered_at_once_and_ends_with_its_status(
    number: signal.Signals,
) -> None:
    process = Process("idle", "0")
    process.send(number)
    assert process.line() == (
        f"sft: {number.name}: stopping after this step; a second signal ends it now"
    )
    assert process.end() == (128 + number, "name: saved")


def test_a_second_one_ends_it_even_inside_of_a_call_that_never_returns() -> None:
    process = Process("busy", "0")
    process.send(signal.SIGTERM)
    assert "stopping after this step" in process.line()
    process.send(signal.SIGINT)
    assert process.end() == (130, "sft: ended; what the last checkpoint holds is kept")


def test_what_torchrun_passes_on_is_no_second_one() -> None:
    process = Process("idle", "0.5", TORCHELASTIC_RUN_ID="run")
    process.send(signal.SIGINT)
    assert "stopping after this step" in process.line()
    process.send(signal.SIGINT)
    assert process.end() == (130, "name: saved")


def test_where_everything_is_saved_the_first_one_ends_it() -> None:
    process = Process("at once", "60")
    process.send(signal.SIGTERM)
    assert process.end() == (143, "sft: ended; what the last checkpoint holds is kept")


def test_it_leaves_the_handlers_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="sees by /proc when torch comes")
def test_ctrl_c_while_a_command_imports_is_one_line() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "train.sft", "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in maps.read_text():  # it is in the middle of importing torch
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "interrupted\n")
