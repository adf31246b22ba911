"""Describes the machine and the versions that a figure was measured with."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def describe_machine() -> dict[str, str]:
    """Facts to record with every result: date, CPU, GPU, platform, versions, and the commit.

    "commit" is that of the checkout that this package runs from, "-dirty" if tracked files were
    changed; an installed package has none.
    """
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": _cpu_name(),
        "threads": str(torch.get_num_threads()),
        **_gpu(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **_versions("gsr-engine", "torch", "triton", "transformers", "safetensors", "numpy"),
        **_commit(),
    }


def _gpu() -> dict[str, str]:
    if not torch.cuda.is_available():
        return {"gpu": "none"}
    facts = {"gpu": torch.cuda.get_device_name()}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
        facts["driver"] = answer.stdout.split()[0]
    return facts


def _commit() -> dict[str, str]:
    here = Path(__file__)

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
        return done.stdout.strip()

    with suppress(OSError, subprocess.SubprocessError):
        git("ls-files", "--error-unmatch", here.name)  # an environment may lie in another checkout
        describe = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
        return {"commit": git(*describe)}
    return {}


def _versions(*names: str) -> dict[str, str]:
    """The versions of the named packages that are installed.

    Some may be missing: the kernels need few packages, and run without the engine.
    """
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
