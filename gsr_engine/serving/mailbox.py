"""Carries the events of one request from the engine's thread to the event loop that reads them."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import replace
from itertools import chain
from typing import Any

from gsr_engine.serving.events import CandidateToken, Event, RefineToken


class Mailbox:
    """A queue of events that is made and read in one event loop and filled from any thread.

    It holds at most one token event per stream: new tokens join the unread event of their stream.
    So the memory for a slow or stopped reader is bounded by its request, not by its delay.

    Attributes:
        loop: the event loop in which it is read.
        left: the reader is gone and will not come back.
        reader_waits: whether the reader waits for the next event, and was not woken yet.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        # Oldest first; the token events of a stream share a list, and are joined when it is read.
        self._unread: dict[Hashable, list[Any]] = {}
        self._error: BaseException | None = None
        self.left = False
        self.reader_waits = False
        self._wakeup = asyncio.Event()

    @property
    def unread(self) -> bool:
        """Whether there are events that the reader has not read."""
        return bool(self._unread)

    def put(self, events: list[Event[Any]]) -> bool:
        """Add events; returns whether the reader waits for them, so that it needs `wake`."""
        with self._lock:
            for event in events:
                self._add(event)
            return self.reader_waits

    def _add(self, event: Event[Any]) -> None:
        key: Hashable = object()  # other events are never joined
        if isinstance(event, CandidateToken | RefineToken):
            key = event.stream
        self._unread.setdefault(key, []).append(event)

    def fail(self, error: BaseException) -> None:
        """Raise an error in the reader, after it has read the events that are there."""
        with self._lock:
            self._error = error
            waits = self.reader_waits
        if waits:
            wake([self])  # in an event loop that is closed there is no reader

    async def get(self) -> Event[Any]:
        """The oldest unread event; waits until there is one.

        Raises:
            BaseException: the error given to `fail`, once no event is left.
        """
        while True:
            with self._lock:
                if self._unread:
                    return _joined(self._unread.pop(next(iter(self._unread))))
                if self._error is not None:
                    raise self._error
                self.reader_waits = True
                self._wakeup.clear()
            await self._wakeup.wait()


def wake(mailboxes: Iterable[Mailbox]) -> list[Mailbox]:
    """Wake the readers of mailboxes, by one call of each event loop.

    Returns those whose event loop is closed: nobody will read them.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[Mailbox]] = defaultdict(list)
    for mailbox in mailboxes:
        by_loop[mailbox.loop].append(mailbox)
    gone: list[Mailbox] = []
    for loop, mine in by_loop.items():
        for mailbox in mine:
            mailbox.reader_waits = False  # before the call: woken, the reader may wait again
        try:
            loop.call_soon_threadsafe(_set, [mailbox._wakeup for mailbox in mine])
        except Exception:  # also that of a foreign event loop ends its own requests only
            gone += mine
    return gone


def _set(wakeups: list[asyncio.Event]) -> None:
    for wakeup in wakeups:
        wakeup.set()


def _joined(events: list[Any]) -> Event[Any]:
    """One event, or the token events of one stream as one."""
    first: Event[Any] = events[0]
    if len(events) == 1 or not isinstance(first, CandidateToken | RefineToken):
        return first
    return replace(
        first,
        token_ids=tuple(chain.from_iterable(event.token_ids for event in events)),
        text="".join(event.text for event in events),
        logprobs=tuple(chain.from_iterable(event.logprobs for event in events)),
        top_logprobs=tuple(chain.from_iterable(event.top_logprobs for event in events)),
    )
