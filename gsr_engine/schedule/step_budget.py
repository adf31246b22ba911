"""How many tokens a step may have: `max_batch_tokens`, or less while the device lacks memory."""

from __future__ import annotations

from gsr_engine.step.plan import StepPlan


class StepBudget:
    """Becomes smaller with each step that found no memory, and doubles with each that did.

    Attributes:
        tokens: that the next step may have. Streams that decode are not bound by it: with fewer
            tokens than streams, a step has no prefill and no drafts.
    """

    def __init__(self, most: int) -> None:
        self._most = self.tokens = most
        self._shrunk = False  # because of the last step that was launched

    def shrink(self, plan: StepPlan) -> bool:
        """Take a plan that found no memory; returns whether a smaller or a second one may.

        The next one has no prefill and no drafts or, if nothing decodes, half as much prefill. What
        cannot be smaller is tried twice: caches were given back meanwhile.
        """
        again, self._shrunk = self._shrunk, True
        least = plan.num_decodes
        if plan.num_tokens > max(least, 1):
            self.tokens = least or plan.num_tokens // 2
            return True
        self.tokens = 1
        return not again

    def grow(self) -> bool:
        """Take a step that was computed; returns whether that made the budget whole again."""
        self._shrunk = False
        if self.tokens == self._most:
            return False
        self.tokens = min(self._most, 2 * self.tokens)
        return self.tokens == self._most
