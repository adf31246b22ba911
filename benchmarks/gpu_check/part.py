"""python -m benchmarks.gpu_check.part NAME DEVICE SIZE OUT: one part, in this process.

It imports everything first, then waits on stdin for a line with the seconds that it has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.record import Record, read_rows
from benchmarks.gpu_check.setting import Setting
from gsr_engine.environment import describe_machine

Run = Callable[[Setting, Record], None]


def loaded(name: str) -> Run:
    """The function that runs a part."""
    run: Run = import_module(f"benchmarks.gpu_check.{name.replace('-', '_')}").run
    return run


def run_part(name: str, setting: Setting, seconds: float) -> None:
    """Run a part; an exception becomes one of its rows."""
    record = Record(name, setting.out, seconds)
    try:
        if all(row["table"] != "machine" for row in read_rows(setting.out)):
            record.add("machine", setting.device, **_facts(setting))
        if seconds < 0:  # models are made before the first case
            record.add("part", name, skipped="no time left")
            return
        loaded(name)(setting, record)
    except Exception as error:
        record.fail("part", name, error)


def _facts(setting: Setting) -> dict[str, Any]:
    facts: dict[str, Any] = describe_machine()
    if setting.on_gpu:
        free, total = torch.cuda.mem_get_info()
        facts |= {"cuda": torch.version.cuda, "gib": total / 2**30, "gib_free": free / 2**30}
    return facts


def _main() -> None:
    part, device, size, out = sys.argv[1:]
    try:
        loaded(part)
    except Exception as error:
        Record(part, Path(out), 0.0).fail("part", part, error)
        return
    if seconds := sys.stdin.readline():  # nothing if the check ended before
        run_part(part, Setting(device=device, tiny=size == "tiny", out=Path(out)), float(seconds))


if __name__ == "__main__":
    _main()
