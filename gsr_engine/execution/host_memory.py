"""How much memory of the host is free for this process."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gsr_engine.execution.control_groups import group_folders, kernel_text

_CACHES = (("inactive_file", "total_inactive_file"), ("active_file", "total_active_file"))
"""Caches of files, as cgroup v2 and v1 call them in memory.stat. Both kinds are given back on
demand; weights that were read twice are active."""
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Limit and use of a control group, v2 and v1."""


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still take: the system's, or those of its tightest limit.

    `root` is where /proc and /sys lie. A system that does not tell (macOS) is taken for half free.
    """
    known = known_free_memory(root)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if known is None else known


def known_free_memory(root: Path = Path("/")) -> int | None:
    """As `free_memory`; None if the system does not tell, as one without /proc/meminfo."""
    found = re.search(
        r"^MemAvailable:\s*(\d+) kB", kernel_text(root / "proc/meminfo"), re.MULTILINE
    )
    if not found:
        return None
    return min([int(found[1]) * 1024, *_free_of_groups(root)])


def _free_of_groups(root: Path) -> list[int]:
    """Bytes left in each control group that limits this process's memory."""
    return [free for folder in group_folders("memory", root) for free in _free_of_group(folder)]


def _free_of_group(folder: Path) -> list[int]:
    """Bytes left in one group; none if it sets no limit."""
    for limit, used in _FILES:
        most, taken = kernel_text(folder / limit).strip(), kernel_text(folder / used).strip()
        if most.isdecimal() and taken.isdecimal():
            stat = dict(
                line.split(maxsplit=1) for line in kernel_text(folder / "memory.stat").splitlines()
            )
            caches = sum(max(int(stat.get(name, 0)) for name in names) for names in _CACHES)
            return [max(0, int(most) - int(taken) + caches)]
    return []
