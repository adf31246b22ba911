"""Leases: which worker has which shard, as files that all workers see."""

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
    """A file that says who works on something; its time of change is the worker's heartbeat.

    Two workers may for a moment both believe that a lease is theirs: when two steal it at once, or
    when its owner slept too long. The first to `renew` learns that it is not. What they work on
    must bear that.
    """

    path: Path
    owner: str

    def renew(self) -> bool:
        """Say that the worker lives; False if the lease is not its own any more."""
        try:
            if self.path.read_text(encoding="utf-8") != self.owner:
                return False
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return True

    def release(self) -> None:
        """Let others have it."""
        if self.renew():
            self.path.unlink(missing_ok=True)


@dataclass(slots=True)
class Leases:
    """Takes leases, those of dead workers too.

    A worker is dead when its process is gone from this host, or when its heartbeat stood still for
    `seconds` of our own clock: the clocks of two hosts are never compared.
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
        self._taken.add(lease)  # before it is: an interrupt may come between any two lines
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
        """Let others have whatever was taken here and not released."""
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
    """Where process numbers mean the same: containers may share a host's name, and clones too."""
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
