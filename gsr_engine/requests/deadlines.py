"""The moments at which a request stops its candidates, and at which it ends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Deadlines:
    """The timeouts of a request, and the moment from which they count.

    Attributes:
        timeout: seconds after which the request ends; None for never.
        candidate_timeout: seconds after which its candidates are stopped; None for never.
        asked_at: the engine's clock when the caller asked; None until that is known.
    """

    timeout: float | None = None
    candidate_timeout: float | None = None
    asked_at: float | None = None

    def count_from(self, now: float) -> None:
        """Let the timeouts count from `now`; only the first call has an effect."""
        if self.asked_at is None:
            self.asked_at = now

    @property
    def moments(self) -> list[float]:
        """When they pass, by the engine's clock: up to two, and none before `count_from`."""
        asked_at, timeouts = self.asked_at, (self.candidate_timeout, self.timeout)
        if asked_at is None:
            return []
        return [asked_at + seconds for seconds in timeouts if seconds is not None]

    def over(self, now: float) -> bool:
        """Whether the moment at which the request ends has passed."""
        if self.timeout is None or self.asked_at is None:
            return False
        return self.asked_at + self.timeout <= now
