"""The kernels' own tests on the chip, as many as there is time for."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from importlib.util import find_spec

from benchmarks.gpu_check import CHECKOUT
from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting

_TESTS = CHECKOUT / "tests/csrc_triton"
_WORKERS = 12
# Seconds in which pytest prints its findings once it is told to end.
_ENDING = 5.0


def run(setting: Setting, record: Record) -> None:
    """Run them until the time is over; those that did not run are no failure."""
    record.attempt("tests", "tests/csrc_triton", partial(_run_tests, setting, record))


def _run_tests(setting: Setting, record: Record) -> Row:
    log = setting.out / "kernel-tests.log"
    command = [sys.executable, "-m", "pytest", *_options(setting)]
    command += ["-o", "addopts=", "-p", "no:cacheprovider", "-q", "-rfE", "--tb=short"]
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=CHECKOUT, stdout=file, stderr=subprocess.STDOUT)  # noqa: S603
        status = _wait(process, record.seconds_left)
    text = log.read_text(encoding="utf-8", errors="replace")
    for name, message in failures_in(text):
        record.add("tests", name, failed=message)
    row = counts_in(text)
    if status is None:
        return row | {"skipped": "no time left for the rest"}
    return row | {"passed": status == 0 and row.get("tests_passed", 0) > 0}


def _options(setting: Setting) -> list[str]:
    if not setting.on_gpu:  # one file, without the fixtures of the others
        return [str(_TESTS / "test_package.py"), "--noconftest"]
    files = sorted(map(str, _TESTS.glob("test_kernels_*.py")))
    # Most of the time is compilation, which several processes do in parallel.
    workers = ["-n", str(_WORKERS)] if find_spec("xdist") else []
    return [*files, *workers, "--maxfail=20"]


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit status; None if it had to be stopped."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(max(1.0, seconds))
    process.send_signal(signal.SIGINT)  # pytest then prints its findings
    with suppress(subprocess.TimeoutExpired):
        process.wait(_ENDING)
    process.kill()
    return None


def failures_in(text: str) -> list[tuple[str, str]]:
    """(test, message) of the short summary of `pytest -rfE`."""
    found = re.findall(r"^(?:FAILED|ERROR) (\S+\.py.*?)(?: - (.*))?$", text, re.M)
    return [(name, message or "see kernel-tests.log") for name, message in found]


def counts_in(text: str) -> Row:
    """How many tests passed, failed, ..., from the last line of `pytest -q`."""
    last = text.strip().rpartition("\n")[2]
    return {f"tests_{kind}": int(count) for count, kind in re.findall(r"(\d+) ([a-z]+)", last)}
