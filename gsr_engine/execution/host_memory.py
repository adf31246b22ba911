"""How much memory of the host is free for this process."""

from __future__ import annotations

import os
import re
from pathlib import Path

_INACTIVE = ("inactive_file", "total_inactive_file")
"""File caches that are given back on demand, as cgroup v2 and v1 call them in memory.stat."""
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Limit and use of a control group, v2 and v1."""


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still take: the system's, or those of its tightest limit.

    `root` is where /proc and /sys lie. A system without /proc/meminfo (macOS) is taken for half
    free.
    """
    return min([_free_of_system(root), *_free_of_groups(root)])


def _free_of_system(root: Path) -> int:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _free_of_groups(root: Path) -> list[int]:
    """Bytes left in each control group that limits this process's memory."""
    frees = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        group = mount / path.lstrip("/")
        # A group is bound by those above it, too. In a container the path may be the host's; what
        # is mounted is the container's own group.
        for folder in (group, *group.parents):
            frees += _free_of_group(folder)
            if folder == mount:
                break
    return frees


def _free_of_group(folder: Path) -> list[int]:
    """Bytes left in one group; none if it sets no limit."""
    for limit, used in _FILES:
        most, taken = _text(folder / limit).strip(), _text(folder / used).strip()
        if most.isdecimal() and taken.isdecimal():
            stat = dict(
                line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines()
            )
            cache = max(int(stat.get(name, 0)) for name in _INACTIVE)
            return [max(0, int(most) - int(taken) + cache)]
    return []


def _text(file: Path) -> str:
    """What a file of the kernel says; nothing if it is not there."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
