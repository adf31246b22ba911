"""python -m benchmarks.gpu_check.part NAME DEVICE TINY OUT SECONDS: one part, in this process."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.record import Record, read_rows
from benchmarks.gpu_check.setting import Setting
from gsr_engine.environment import describe_machine


def run_part(name: str, setting: Setting, seconds: float) -> None:
    """Run a part; an exception becomes one of its rows."""
    record = Record(name, setting.out, seconds)
    try:
        if not read_rows(setting.out):
            record.add("machine", setting.device, **_facts(setting))
        module = import_module(f"benchmarks.gpu_check.{name.replace('-', '_')}")
        module.run(setting, record)
    except Exception as error:
        record.fail("part", name, error)


def _facts(setting: Setting) -> dict[str, Any]:
    facts: dict[str, Any] = describe_machine()
    if setting.on_gpu:
        free, total = torch.cuda.mem_get_info()
        facts |= {"cuda": torch.version.cuda, "gib": total / 2**30, "gib_free": free / 2**30}
    return facts


if __name__ == "__main__":
    part, device, tiny, out, time_limit = sys.argv[1:]
    run_part(part, Setting(device=device, tiny=tiny == "tiny", out=Path(out)), float(time_limit))
