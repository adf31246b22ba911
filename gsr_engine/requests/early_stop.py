"""When enough candidates have finished, so that the others need not go on."""

from __future__ import annotations

from gsr_engine.params import SelfRefineParams
from gsr_engine.text.answers import Votes


class EarlyStop:
    """Counts the candidates of one request that have ended by themselves.

    Those that `max_tokens` or the context cut do not count.
    """

    def __init__(self, params: SelfRefineParams) -> None:
        self._first = params.first
        self._agreement = params.agreement
        self._finished = 0
        self._votes = Votes()

    @property
    def wanted(self) -> bool:
        """Whether anything but all candidates can be enough."""
        return bool(self._first or self._agreement)

    def enough(self, index: int, shows: bool, answer: str | None) -> bool:
        """Whether, with this candidate, there are enough.

        Args:
            index: the candidate's.
            shows: whether it has something to show to a refinement.
            answer: what it states.
        """
        self._finished += shows
        self._votes.add(index, answer)
        first, agreement = self._first, self._agreement
        return bool(
            (first and self._finished >= first)
            or (agreement and len(self._votes.largest()) >= agreement)
        )
