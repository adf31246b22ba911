"""Counters of the attention kernels by Nsight Compute, where the machine has it and allows it.

`ncu.txt` keeps its whole report; rows hold the figures that say what a kernel waits for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial

from benchmarks.gpu_check import CHECKOUT
from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting

_KERNELS = "regex:_work_list_kernel|_reduce_kernel|_prefill_kernel"
_FIGURES = (
    "Duration",
    "Memory Throughput",
    "DRAM Throughput",
    "L2 Hit Rate",
    "Compute (SM) Throughput",
    "Executed Ipc Active",
    "Achieved Occupancy",
    "Registers Per Thread",
)
_BESIDE_CUDA = "/usr/local/cuda/bin"
# Seconds that are kept for reading the report.
_RESERVE = 2.0


def run(setting: Setting, record: Record) -> None:
    """One launch of each kernel, narrow and wide; without ncu the part is skipped."""
    tool = shutil.which("ncu", path=os.pathsep.join([os.environ.get("PATH", ""), _BESIDE_CUDA]))
    if tool is None or not setting.on_gpu:
        record.add("ncu", "all", skipped="there is no ncu" if setting.on_gpu else "there is no GPU")
        return
    record.attempt("ncu", "all", partial(_profile, tool, setting, record))


def command_of(tool: str) -> list[str]:
    """The command line of ncu; clocks stay as they are."""
    options = ["--clock-control", "none", "--set", "full", "--kernel-name", _KERNELS]
    return [tool, *options, "--launch-count", "6", sys.executable, "-m", "benchmarks.gpu_check.few"]


def _profile(tool: str, setting: Setting, record: Record) -> Row | None:
    file = setting.out / "ncu.txt"
    with file.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(  # noqa: S603
            command_of(tool), cwd=CHECKOUT, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            status = process.wait(max(1.0, record.seconds_left - _RESERVE))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = None
    text = file.read_text(encoding="utf-8", errors="replace")
    for kernel, figures in figures_in(text):
        record.add("ncu", kernel, **figures)
    if status == 0:
        return None
    if status is None:
        return {"skipped": "no time left"}
    return {"skipped": f"ncu ended with status {status}: {refusal_in(text)}"}


def refusal_in(text: str) -> str:
    """Why ncu did not profile, in its own words."""
    errors: list[str] = re.findall(r"^==ERROR== (.*)$", text, re.M)
    return (errors[0] if errors else text.strip().rpartition("\n")[2])[:200]


def figures_in(text: str) -> list[tuple[str, Row]]:
    """(kernel, figures with their units) of each launch in ncu's report as text."""
    found: list[tuple[str, Row]] = []
    figure = re.compile(rf"^\s+({'|'.join(map(re.escape, _FIGURES))})\s+(\S.*?)?\s+([\d.,]+)\s*$")
    for line in text.splitlines():
        if match := re.match(r"^ {2}(\w+)\b.* \((\d+, \d+, \d+)\)x\(", line):
            found.append((f"{match[1]}, grid {match[2]}", {}))
        elif found and (match := figure.match(line)):
            name = " ".join(filter(None, (match[1], match[2])))
            found[-1][1].setdefault(name, float(match[3].replace(",", "")))
    return found
