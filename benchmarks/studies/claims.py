"""Claims about measured differences, and whether a measurement bears them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.analysis.intervals import Interval

Verdict = Literal["reproduces", "does not reproduce", "cannot be said"]
MARGIN = 0.02
"""Accuracies that differ by less are called equal."""


@dataclass(frozen=True, slots=True)
class Check:
    """A difference of accuracies, and where a claim says that it lies.

    Attributes:
        text: what is subtracted from what.
        interval: measured: paired, 95 %, clustered by problem; None if there is no such problem.
        low, high: the claim's bounds; None for no bound.
    """

    text: str
    interval: Interval | None
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> Verdict:
        """It holds if the whole interval is within the bounds, and fails if all of it is outside.

        An interval without any width says that every problem agrees; it counts as any other.
        """
        if self.interval is None:
            return "cannot be said"
        low = float("-inf") if self.low is None else self.low
        high = float("inf") if self.high is None else self.high
        if low < self.interval.low and self.interval.high < high:
            return "reproduces"
        if self.interval.high <= low or high <= self.interval.low:
            return "does not reproduce"
        return "cannot be said"

    @property
    def bounds(self) -> str:
        """What the claim expects, as text."""
        if self.low is None:
            return f"below {self.high:+.2f}"
        if self.high is None:
            return f"above {self.low:+.2f}"
        return f"between {self.low:+.2f} and {self.high:+.2f}"


def more(text: str, interval: Interval | None) -> Check:
    """The claim says that the difference is positive."""
    return Check(text, interval, low=0.0)


def less(text: str, interval: Interval | None) -> Check:
    """The claim says that the difference is negative."""
    return Check(text, interval, high=0.0)


def no_more(text: str, interval: Interval | None) -> Check:
    """The claim says that nothing is gained: the difference is below `MARGIN`."""
    return Check(text, interval, high=MARGIN)


def equal(text: str, interval: Interval | None) -> Check:
    """The claim says that the difference is within `MARGIN`."""
    return Check(text, interval, low=-MARGIN, high=MARGIN)


@dataclass(frozen=True, slots=True)
class Claim:
    """Something the paper or its reviewers say, and the checks that it is measured by.

    Attributes:
        text: the claim.
        source: who says so.
        checks: all must hold.
    """

    text: str
    source: str
    checks: Sequence[Check]

    @property
    def verdict(self) -> Verdict:
        """It reproduces if every check holds, and does not if one fails."""
        verdicts = {check.verdict for check in self.checks}
        if "does not reproduce" in verdicts:
            return "does not reproduce"
        return "reproduces" if verdicts == {"reproduces"} else "cannot be said"
