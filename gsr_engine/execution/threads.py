"""How many threads the engine's work on the CPU takes."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gsr_engine.errors import EngineForked
from gsr_engine.execution.control_groups import group_folders, kernel_text

_present = threading.local()
"""`process`: in which the present thread computed with threads beside it. A fork copies this."""


class Threads:
    """The number of torch's threads while an engine loads, prepares and steps.

    torch's number belongs to the thread that sets it. It is also the first number of every thread
    that uses torch for the first time later. So it is set for the length of a step only, in the
    thread that steps, and then put back.

    Attributes:
        count: the number; `None` is replaced by that of `available_threads`.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = available_threads() if count is None else count

    @contextmanager
    def held(self) -> Iterator[None]:
        """Torch's number in here, in this thread; may be nested.

        Raises:
            EngineForked: an engine computed in this thread before the process was forked. OpenMP
                would wait forever for the threads that it had beside this one.
        """
        if self.count > 1:
            process = os.getpid()
            if getattr(_present, "process", process) != process:
                raise EngineForked(
                    "an engine computed in this thread before the process was forked, and OpenMP's "
                    "threads do not survive a fork: spawn the process instead, or make an engine "
                    "here with threads=1, or in a new thread"
                )
            _present.process = process
        before = torch.get_num_threads()
        if before == self.count:
            yield
            return
        try:
            torch.set_num_threads(self.count)
            yield
        finally:
            torch.set_num_threads(before)


def available_threads(root: Path = Path("/")) -> int:
    """The smallest of torch's own number, the affinity and the CPU quota, rounded up; at least 1.

    `root` is where /proc and /sys lie.
    """
    quota = cpu_quota(root)
    return min(torch.get_num_threads(), affinity(), *([] if quota is None else [math.ceil(quota)]))


def affinity() -> int:
    """Number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS pins no process


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPU time per time that the control groups allow, above 0; None without a limit.

    A limit that cannot be read counts as none.
    """
    quotas = [quota for folder in group_folders("cpu", root) for quota in _quota_of(folder)]
    return min(quotas, default=None)


def describe_threads() -> dict[str, str]:
    """What bounds torch's number of threads, and the number that an engine takes."""
    quota = cpu_quota()
    return {
        "affinity": str(affinity()),
        "cpu_quota": "none" if quota is None else f"{quota:g}",
        "engine_threads": str(available_threads()),
    }


def _quota_of(folder: Path) -> list[float]:
    """The quota of one group; none if it sets no limit."""
    for text in (
        kernel_text(folder / "cpu.max"),  # version 2: both numbers, or "max" and the period
        " ".join(kernel_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")),
    ):
        numbers = [int(word) for word in text.split() if word.isdecimal()]
        if len(numbers) == len(text.split()) == 2 and all(numbers):
            return [numbers[0] / numbers[1]]
    return []
