"""SIGTERM and SIGINT in training: the first one stops it after a step, a second one at once."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import Self

from train.command import log

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ECHO_SECONDS = 5.0
"""Torchrun passes on a signal that the ranks got themselves, e.g. from the terminal. What arrives
so soon after the first signal is no second one."""


class StopSignal:
    """Notes a signal inside its `with` block, instead of dying from it, and says so at once.

    A step of a large model takes minutes inside of one call, and Python's handlers wait for its
    end. So a thread reads what Python writes to a socket as soon as a signal arrives.

    Attributes:
        received: number of the first signal, 0 until one arrives.
        at_once: whether already the first signal ends the run, because a checkpoint holds it all.
    """

    def __init__(self) -> None:
        self.received = 0
        self.at_once = False
        self._echo = _ECHO_SECONDS if "TORCHELASTIC_RUN_ID" in os.environ else 0.0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number

    def _watch(self, reader: socket.socket) -> None:
        first = 0.0
        while number := reader.recv(1)[0]:
            if number not in SIGNALS:
                continue
            if not first and not self.at_once:
                first = time.monotonic()
                name = signal.Signals(number).name
                log.info("sft: %s: stopping after this step; a second signal ends it now", name)
            elif time.monotonic() > first + self._echo:
                log.info("sft: ended; what the last checkpoint holds is kept")
                os._exit(128 + number)

    def __enter__(self) -> Self:
        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, args=(reader,), daemon=True)
        self._thread.start()
        self._reader = reader
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._writer.send(b"\0")
        self._thread.join()
        self._writer.close()
        self._reader.close()
