"""Carries the events of one request from the engine's thread to the event loop that reads them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gsr_engine.serving.events import CandidateToken, Event, RefineToken


class Mailbox:
    """Made and read in one event loop, filled from any thread.

    It holds at most one token event per stream: what comes while that is unread joins it. So
    a reader that is slow, or stopped, costs memory in proportion to the request, not to its delay.

    Attributes:
        reader_waits: whether the reader sleeps until something comes.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._unread: dict[Hashable, Event[Any]] = {}  # oldest first
        self._error: BaseException | None = None
        self.reader_waits = False
        self._wakeup = asyncio.Event()

    @property
    def unread(self) -> bool:
        """Whether the reader is behind."""
        return bool(self._unread)

    def put(self, events: list[Event[Any]]) -> None:
        """Add events.

        Raises:
            RuntimeError: the reader waits in an event loop that is closed.
        """
        with self._lock:
            for event in events:
                self._add(event)
            if events:
                self._wake()

    def _add(self, event: Event[Any]) -> None:
        key: Hashable = object()
        if isinstance(event, CandidateToken | RefineToken):
            key = event.stream
            before = self._unread.get(key)
            if isinstance(before, CandidateToken | RefineToken):
                event = replace(
                    event,
                    token_ids=before.token_ids + event.token_ids,
                    text=before.text + event.text,
                )
        self._unread[key] = event

    def fail(self, error: BaseException) -> None:
        """Let the reader have an error once it has read what is there."""
        with self._lock:
            self._error = error
            with suppress(RuntimeError):  # the loop is closed: there is no reader
                self._wake()

    def _wake(self) -> None:
        if self.reader_waits:
            self.reader_waits = False
            self._loop.call_soon_threadsafe(self._wakeup.set)

    async def get(self) -> Event[Any]:
        """The oldest unread event; waits for one if need be."""
        while True:
            with self._lock:
                if self._unread:
                    return self._unread.pop(next(iter(self._unread)))
                if self._error is not None:
                    raise self._error
                self.reader_waits = True
                self._wakeup.clear()
            await self._wakeup.wait()
