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
        done, total = self._store.num_finished() + tally.present, self._store.num_samples
        if self._done_before is None:
            self._done_before = done - tally.samples
        others = done - self._done_before - tally.samples
        seconds = self._logged - self._begun
        log.info(progress_line(done, total, tally, seconds, self._store.config.max_tokens, others))


def progress_line(
    done: int, total: int, tally: Tally, seconds: float, max_tokens: int, others: int = 0
) -> str:
    """Counts, rates, shares, and the time left.

    Args:
        done: samples that there are.
        total: samples that are wanted.
        tally: what was drawn in these `seconds`.
        seconds: since the beginning.
        max_tokens: of a sample; the time left is the most that it can be until one is finished.
        others: samples that others drew in these seconds, who will draw a part of the rest.
    """
    seconds = max(seconds, 1e-9)
    rate = (tally.tokens + tally.running) / seconds
    parts = [
        f"{done:,}/{total:,} samples ({done / total:.1%})",
        f"{tally.samples / seconds:,.1f} samples/s",
        f"{rate:,.0f} tokens/s",
    ]
    if drawn := tally.samples - tally.failed:
        parts.append(f"{tally.cut / drawn:.1%} cut at max_tokens")
        parts.append(f"{tally.unanswered / drawn:.1%} without an answer")
    if tally.graded:
        parts.append(f"{tally.correct / tally.graded:.1%} right")
    if tally.failed:
        parts.append(f"{tally.failed:,} failed")
    if done < total and rate:
        each = tally.tokens / drawn if drawn else max_tokens
        share = tally.samples / (tally.samples + others) if tally.samples else 1.0
        left = max(0.0, ((total - done) * each - tally.running) * share / rate)
        parts.append(f"{'' if drawn else 'at most '}{timedelta(seconds=round(left))} left")
    return ", ".join(parts)
