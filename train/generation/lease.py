"""Leases: which worker has which shard, as files that all workers see.

`filelock.SoftFileLease` is similar, but its heartbeat is a thread: a worker whose GPU hangs would
keep its shard. Here the worker's own loop renews the lease.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Lease:
    """A file that names the worker of a shard; its modification time is the worker's heartbeat.

    Two workers may both believe for a moment that a lease is theirs: if two steal it at once, or if
    its owner slept too long. `renew` then returns False to all but one. The work must tolerate
    that.
    """

    path: Path
    owner: str

    def renew(self) -> bool:
        """Send a heartbeat; False if another worker has the lease now."""
        try:
            if self.path.read_text(encoding="utf-8") != self.owner:
                return False
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return True

    def release(self) -> None:
        """Free the lease for others."""
        if self.renew():
            self.path.unlink(missing_ok=True)


@dataclass(slots=True)
class Leases:
    """Takes leases, also those of dead workers.

    A worker is dead if its process is gone from this host, or if its heartbeat did not change for
    `seconds` of our own clock. The clocks of two hosts are never compared.
    """

    seconds: float
    _seen: dict[Path, tuple[int, float]] = field(default_factory=dict)
    _taken: set[Lease] = field(default_factory=set)

    def take(self, path: Path) -> Lease | None:
        """The lease at a path; None while another worker has it."""
        is_left = path.exists()
        if is_left and not self._is_dead(path):
            return None
        token = secrets.token_hex(8)
        lease = Lease(path, f"{_host()} {os.getpid()} {token}")
        written = path.with_name(f"{path.name}.{token}")
        self._taken.add(lease)  # before it exists: an interrupt may come between any two lines
        try:
            written.write_text(lease.owner, encoding="utf-8")
            if is_left:
                written.replace(path)
            else:
                os.link(written, path)
        except FileExistsError:
            self._taken.remove(lease)
            return None
        finally:
            written.unlink(missing_ok=True)
        return lease

    def release(self) -> None:
        """Free all leases that were taken here and are not released."""
        while self._taken:
            self._taken.pop().release()

    def _is_dead(self, path: Path) -> bool:
        try:
            owner, beat = path.read_text(encoding="utf-8"), path.stat().st_mtime_ns
        except FileNotFoundError:  # just released: the next try gets it
            return False
        host, _, rest = owner.partition(" ")
        process, _, _ = rest.partition(" ")
        if host == _host() and process.isdigit() and not _is_alive(int(process)):
            return True
        last, since = self._seen.get(path, (0, 0.0))
        if beat != last:
            self._seen[path] = (beat, time.monotonic())
            return False
        return time.monotonic() - since > self.seconds


@cache
def _host() -> str:
    """Where process numbers mean the same. Containers and clones may share a host's name."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # Linux alone has them
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
