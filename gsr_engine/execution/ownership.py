"""One thread at a time uses an engine; another one is refused, not made to wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gsr_engine.errors import EngineBusy

_OWNER = "owner"


class Ownership:
    """Which thread uses an engine now. What the owner does is never disturbed by a refusal.

    The owner may call again from inside a call, for example from a callback.
    """

    def __init__(self) -> None:
        # A dictionary, because its `setdefault` is one step that no other thread can cut in two.
        self._threads: dict[str, int] = {}

    def take(self) -> bool:
        """Own the engine; returns whether this call began it, and so must end it with `give`.

        Raises:
            EngineBusy: another thread owns it.
        """
        me = threading.get_ident()
        owned = self._threads.get(_OWNER) == me
        owner = self._threads.setdefault(_OWNER, me)
        if owner != me:
            raise EngineBusy(
                f"thread {owner} uses this engine, and thread {me} asked: an engine serves one "
                "thread at a time; AsyncEngine serves many"
            )
        return not owned

    def give(self) -> None:
        """Own it no more."""
        self._threads.pop(_OWNER, None)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Own the engine for a while.

        Raises:
            EngineBusy: another thread owns it.
        """
        begun = self.take()
        try:
            yield
        finally:
            if begun:
                self.give()
