"""Is an answer right? What a grader is, and the one that needs no dependency."""

from __future__ import annotations

from typing import Protocol

from gsr_engine.text.answers import same_answer


class Grader(Protocol):
    """Compares answers with gold ones."""

    def correct(self, answer: str | None, gold: str) -> bool:
        """Whether a found answer is the gold one; None, no answer found, is wrong."""
        ...


class ExactGrader:
    """An answer is right if `same_answer` says that it is the gold one: the equality that votes."""

    def correct(self, answer: str | None, gold: str) -> bool:
        """Whether a found answer is the gold one; None is wrong."""
        return same_answer(answer, gold)
