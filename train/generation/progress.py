"""The progress of a generation, as lines of the log."""

from __future__ import annotations

import time
from datetime import timedelta

from train.command import log
from train.generation.store import Store
from train.generation.worker import Tally


class GenerationProgress:
    """A `Report` that logs a line every `every` seconds.

    The number of samples is that of the whole store; shards of other nodes count when they are
    finished. Rates and shares are of the tallies that it is called with.
    """

    def __init__(self, store: Store, every: float = 10.0) -> None:
        self._store = store
        self._every = every
        self._begun = self._logged = time.monotonic()
        self._done_before: int | None = None

    def __call__(self, tally: Tally) -> None:
        """Log it, if it is time."""
        if time.monotonic() - self._logged >= self._every:
            self.log(tally)

    def log(self, tally: Tally) -> None:
        """Log it now."""
        self._logged = time.monotonic()
        seconds = max(self._logged - self._begun, 1e-9)
        done, total = self._store.num_finished() + tally.present, self._store.num_samples
        if self._done_before is None:
            self._done_before = done - tally.samples
        parts = [
            f"{done:,}/{total:,} samples ({done / total:.1%})",
            f"{tally.samples / seconds:,.1f} samples/s",
            f"{tally.tokens / seconds:,.0f} tokens/s",
        ]
        if tally.graded:
            parts.append(f"{tally.correct / tally.graded:.1%} right")
        if tally.failed:
            parts.append(f"{tally.failed:,} failed")
        gained = done - self._done_before
        if done < total and gained > 0:
            left = timedelta(seconds=round((total - done) * seconds / gained))
            parts.append(f"{left} left")
        log.info(", ".join(parts))
