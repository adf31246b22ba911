"""A rank that is gone ends the others: communication alone would wait for it for half an hour."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import torch.distributed as dist

from train.command import log

EVERY_SECONDS = 5.0
SILENCE_SECONDS = 40.0
"""A rank that was not heard of for so long is gone. The others then end within a minute."""


class Heartbeat:
    """Each rank counts up in the store; the first rank watches all, and all watch the first.

    A rank that leaves the `with` block with an error says so, and the others end at once.

    Args:
        store: that all ranks share, with a connection of its own.
        rank, size: number of this process, and number of all processes.
        every, silence: seconds between beats, and until a silent rank counts as gone.
        end: what to do if a rank is gone; by default the process exits with status 1.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        size: int,
        *,
        every: float = EVERY_SECONDS,
        silence: float = SILENCE_SECONDS,
        end: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._rank = rank
        self._every = every
        self._silence = silence
        self._end = end or _end_process
        watched = range(1, size) if rank == 0 else range(min(1, size - 1))
        self._heard = {one: (-1, time.monotonic()) for one in watched}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        unanswered = f"the first rank did not answer for {self._silence:g} s"
        while not self._stopped.wait(self._every):
            # A host without power does not refuse a connection: the call never returns.
            alarm = threading.Timer(self._silence, self._end, [unanswered])
            alarm.daemon = True
            alarm.start()
            try:
                gone = self._beat()
            except Exception as error:  # the store is gone, and with it the rank that held it
                gone = f"the first rank cannot be reached: {str(error).splitlines()[0]:.100}"
            finally:
                alarm.cancel()
            if gone and not self._stopped.is_set():
                self._end(gone)
                return

    def _beat(self) -> str:
        """Count up, and look at the others; says which of them is gone, if one is."""
        self._store.add(f"beat/{self._rank}", 1)
        if left := self._store.add("left", 0):
            return f"rank {left - 1} ended with an error"
        now = time.monotonic()
        for one, (beat, since) in self._heard.items():
            latest = self._store.add(f"beat/{one}", 0)  # 0 does not count; it reads without waiting
            if latest != beat:
                self._heard[one] = latest, now
            elif now - since > self._silence:
                self._leave(one)
                return f"rank {one} was not heard of for {self._silence:g} s"
        return ""

    def _leave(self, rank: int) -> None:
        if not self._store.add("left", 0):
            self._store.add("left", rank + 1)

    def __enter__(self) -> Self:
        if self._heard:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(self._every)  # the store may be gone
            if kind is not None:
                with suppress(Exception):
                    self._leave(self._rank)


def _end_process(gone: str) -> None:
    log.error("sft: %s; the same command goes on from the last checkpoint", gone)
    os._exit(1)
