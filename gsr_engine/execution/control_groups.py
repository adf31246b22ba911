"""The control groups that bind this process, versions 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def group_folders(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Folders of the groups that may limit this process, each before the groups above it.

    Args:
        controller: as version 1 names it, e.g. "memory" or "cpu".
        root: where /proc and /sys lie. Without /proc/self/cgroup (macOS) there are no groups.
    """
    for line in kernel_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = mount / path.lstrip("/")
        # A group is bound by those above it, too. In a container the path may be the host's; what
        # is mounted is the container's own group.
        for folder in (group, *group.parents):
            yield folder
            if folder == mount:
                break


def kernel_text(file: Path) -> str:
    """What a file of the kernel says; nothing if it is not there."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
