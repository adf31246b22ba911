"""python -m benchmarks.gpu_check: the parts one after the other, each in its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.gpu_check import CHECKOUT
from benchmarks.gpu_check.record import ROWS, Record, is_bad, read_rows
from benchmarks.gpu_check.tables import summary_of, tables_of
from train.command import run_command

# Seconds that a part should need on an H200, with its start (8 seconds) and compilation. They are
# the parts' shares of the whole time. Time that a part leaves goes to the next part.
#
#   kernels       tests 60 (without xdist 150: then they are cut off), real sizes 30
#   engine        tiny 30, 0.5B 90: four ways in fp32 and two in bf16, with transformers beside each
#   kernel-speed  60
#   decode        0.5B 20, 7B 60: 256k tokens of prompts, then steps at five batch sizes, twice
#   selfref       7B: three values of k, three ways, twice 60; lookup decoding, four ways, twice 35;
#                 shared spans 15; transformers 30
#   train         compiling 45, steps of 4 s 30; a tiny model beside the CPU 15
#   fp8           products 15, logits of 0.5B four ways 10
PARTS = {
    "kernels": 95.0,
    "engine": 100.0,
    "kernel-speed": 55.0,
    "decode": 75.0,
    "selfref": 120.0,
    "train": 85.0,
    "fp8": 30.0,
}
# Seconds that a running case may exceed the end of its part.
_GRACE = 15.0
_END = 5.0


def command_of(part: str, device: str, tiny: bool, out: Path, seconds: float) -> list[str]:
    """The command line of a part."""
    size = "tiny" if tiny else "real"
    module = "benchmarks.gpu_check.part"
    return [sys.executable, "-m", module, part, device, size, str(out), str(seconds)]


def supervise(command: Sequence[str], log: Path, seconds: float) -> str | None:
    """Run a command for at most `seconds`, its stderr in `log`; returns how it died, if it did."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with log.open("a", encoding="utf-8") as file:
        # A new process group, so that its children end with it.
        process = subprocess.Popen(command, stderr=file, env=environment, process_group=0)  # noqa: S603
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):  # a hung GPU may keep it for ever
                process.wait(5)
    if status == 0:
        return None
    last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    return f"ended with status {status}: {last[-200:]}"


def run_parts(parts: Sequence[str], device: str, tiny: bool, out: Path, seconds: float) -> bool:
    """Run parts within `seconds`; returns whether no check failed and no part died."""
    begin = time.monotonic()
    whole, share, taken = sum(PARTS[part] for part in parts), 0.0, {}
    for part in parts:
        share += PARTS[part] / whole
        start = time.monotonic()
        _say(out, f"== {part}")
        left = begin + share * (seconds - _GRACE - _END) - start
        died = supervise(command_of(part, device, tiny, out, left), out / "log.txt", left + _GRACE)
        if died:
            Record(part, out, 0.0).add("part", part, failed=died)
        taken[part] = time.monotonic() - start
        rows = [row for row in read_rows(out) if row["part"] == part]
        _say(out, f"{tables_of(rows)}\n{part}: {taken[part]:.0f} s\n")
    rows = read_rows(out)
    _say(out, f"{summary_of(rows, taken)}\nresults: {out}")
    return not any(map(is_bad, rows))


def _say(out: Path, text: str) -> None:
    with (out / "report.txt").open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    print(text, flush=True)


def main(
    only: Annotated[str, typer.Option(help="Parts, with commas.")] = ",".join(PARTS),
    minutes: Annotated[float, typer.Option(min=0.5, help="For all of it.")] = 9.0,
    device: Annotated[str, typer.Option(help="cuda, or cpu, which is tiny.")] = "cuda",
    tiny: Annotated[bool, typer.Option(help="Tiny shapes, to see whether it runs.")] = False,
    out: Annotated[Path, typer.Option(envvar="OUT", help="Folder of the results.")] = Path(
        "runs/gpu-check"
    ),
) -> None:
    """Check the engine on an NVIDIA GPU and measure it."""
    parts = only.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        raise typer.BadParameter(f"only: {unknown[0]!r} is none of {', '.join(PARTS)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "gpu_check: torch sees no NVIDIA GPU; --device cpu runs tiny shapes without"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name in (ROWS, "report.txt", "log.txt", "kernel-tests.log", "profile.txt"):
        (out / name).unlink(missing_ok=True)
    if not run_parts(parts, device, tiny or device == "cpu", out, 60 * minutes):
        raise typer.Exit(1)


if __name__ == "__main__":
    run_command("gpu_check", lambda: typer.run(main))
