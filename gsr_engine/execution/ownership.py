"""One thread at a time uses an engine, in the process that made it; others are refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gsr_engine.errors import EngineBusy, EngineForked

_OWNER = "owner"


class HomeProcess:
    """The process that made an engine; a fork of it has neither its threads nor its GPU."""

    def __init__(self) -> None:
        self._id = os.getpid()

    @property
    def is_present(self) -> bool:
        """Whether this is the process, not a fork of it."""
        return os.getpid() == self._id

    def check(self) -> None:
        """Raise EngineForked in a fork of the process."""
        if not self.is_present:
            raise EngineForked(
                f"process {self._id} made this engine, and process {os.getpid()} is a fork of it, "
                "without its threads: spawn the process instead, or make an engine in it"
            )


class Ownership:
    """Which thread uses an engine now. What the owner does is never disturbed by a refusal.

    The owner may call again from inside a call, for example from a callback.

    Attributes:
        home: the process that made the engine.
    """

    def __init__(self) -> None:
        # A dictionary, because its `setdefault` is one step that no other thread can cut in two.
        self._threads: dict[str, int] = {}
        self.home = HomeProcess()

    def take(self) -> bool:
        """Own the engine; returns whether this call began it, and so must end it with `give`.

        Raises:
            EngineForked: this process is a fork of the engine's.
            EngineBusy: another thread owns it.
        """
        self.home.check()
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
            EngineForked, EngineBusy: as `take`.
        """
        begun = self.take()
        try:
            yield
        finally:
            if begun:
                self.give()
