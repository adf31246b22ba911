"""python -m benchmarks.gpu_check: the parts one after the other, each in its own process."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.gpu_check.plan import EXTRA, PARTS
from benchmarks.gpu_check.process import PartProcess
from benchmarks.gpu_check.record import ROWS, Record, Row, is_bad, read_rows
from benchmarks.gpu_check.tables import head_of, summary_of, tables_of
from train.command import run_command

FILES = (ROWS, "report.txt", "log.txt", "kernel-tests.log", "profile.txt", "ncu.txt")
# Seconds that a running case may exceed the end of its part.
_GRACE = 15.0
_END = 5.0


def command_of(part: str, device: str, tiny: bool, out: Path) -> list[str]:
    """The command line of a part."""
    size = "tiny" if tiny else "real"
    return [sys.executable, "-m", "benchmarks.gpu_check.part", part, device, size, str(out)]


def seconds_of(part: str, plan: Mapping[str, float], gone: float, seconds: float) -> float:
    """What a part may take of `seconds` for a whole plan, of which some are gone.

    Time that earlier parts left is its own, too. What they took too long, the last parts lose.
    """
    parts, whole = list(plan), seconds - _GRACE - _END
    each = whole / sum(plan.values())
    end = each * sum(plan[one] for one in parts[: parts.index(part) + 1])
    return min(max(end - gone, each * plan[part]), whole - gone)


def run_parts(parts: Sequence[str], device: str, tiny: bool, out: Path, seconds: float) -> bool:
    """Run parts within `seconds`; returns whether no check failed and no part died."""
    begin, taken = time.monotonic(), dict[str, float]()
    # Over tiny shapes all parts take alike: their imports.
    plan = {part: 1.0 if tiny else (PARTS | EXTRA)[part] for part in parts}

    def made(part: str) -> PartProcess:
        return PartProcess(command_of(part, device, tiny, out), out / "log.txt")

    following, head = made(parts[0]), ""
    try:
        for part, after in zip(parts, [*parts[1:], None], strict=True):
            process, start = following, time.monotonic()
            if after is not None:
                following = made(after)
            if ended := process.run(seconds_of(part, plan, start - begin, seconds), _GRACE):
                Record(part, out, 0.0).add("part", part, **ended)
            taken[part] = time.monotonic() - start
            rows = read_rows(out)
            if not head and (head := head_of(rows)):
                _say(out, head)
            _say_part(out, part, rows, taken[part])
    finally:  # a check that a signal ends has its report, too
        following.end()
        for part in [part for part in parts if part not in taken]:
            Record(part, out, 0.0).add("part", part, skipped="the check was ended before")
            _say_part(out, part, read_rows(out), taken.setdefault(part, 0.0))
        rows = read_rows(out)
        _say(out, f"{summary_of(rows, taken)}\nresults: {out}")
    return not any(map(is_bad, rows))


def _say_part(out: Path, part: str, rows: Sequence[Row], seconds: float) -> None:
    mine = tables_of([row for row in rows if row["part"] == part])
    _say(out, f"== {part}, {seconds:.0f} s\n{mine}\n")


def _say(out: Path, text: str) -> None:
    with (out / "report.txt").open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    print(text, flush=True)


def main(
    only: Annotated[
        str, typer.Option(help=f"Parts, with commas; {', '.join(EXTRA)} runs only if named.")
    ] = ",".join(PARTS),
    minutes: Annotated[float, typer.Option(min=0.5, help="For all of it.")] = 7.5,
    device: Annotated[str, typer.Option(help="cuda, or cpu, which is tiny.")] = "cuda",
    tiny: Annotated[bool, typer.Option(help="Tiny shapes, to see whether it runs.")] = False,
    out: Annotated[Path, typer.Option(envvar="OUT", help="Folder of the results.")] = Path(
        "runs/gpu-check"
    ),
) -> None:
    """Check the engine on an NVIDIA GPU and measure it."""
    parts, known = only.split(","), PARTS | EXTRA
    if unknown := [part for part in parts if part not in known]:
        raise typer.BadParameter(f"only: {unknown[0]!r} is none of {', '.join(known)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "gpu_check: torch sees no NVIDIA GPU; --device cpu runs tiny shapes without"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    if not run_parts(parts, device, tiny or device == "cpu", out, 60 * minutes):
        raise typer.Exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as an interrupt, with a report
    run_command("gpu_check", lambda: typer.run(main))
