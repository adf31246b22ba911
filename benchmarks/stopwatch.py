"""Times chosen methods of an engine; a profiler would slow every call down."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any


class Stopwatch:
    """Adds up the seconds that watched methods take, by their names.

    A watched method may call another: the seconds of the inner one count for both.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def watch(self, owner: Any, name: str, label: str | None = None) -> None:
        """Time every call of a method of one object, under a label or the method's name."""
        inner, label = getattr(owner, name), label or name

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[label] += time.perf_counter() - start

        setattr(owner, name, timed)

    def reset(self) -> None:
        """Start again at zero."""
        self.seconds.clear()
