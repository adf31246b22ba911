"""Puzzles of reasoning-gym and their scorers, in a module that a worker imports in a moment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from train.judge import Judgement


@dataclass(frozen=True, slots=True)
class Place:
    """Where a puzzle is found: the index-th of `count` puzzles of a family, by a seed."""

    family: str
    seed: int
    count: int
    index: int


@cache
def gym_puzzles(family: str, seed: int, count: int) -> Any:
    """Puzzles of a family, as reasoning-gym makes them: `question`, `answer`, `metadata`."""
    import reasoning_gym  # noqa: PLC0415  # an extra, seconds to import

    return reasoning_gym.create_dataset(family, seed=seed, size=count)


def full_mark() -> Judgement:
    """Judges (place, answer): whether the family's scorer gives the answer the full mark."""

    def judge(question: tuple[Place, str]) -> bool:
        place, answer = question
        puzzles = gym_puzzles(place.family, place.seed, place.count)
        return bool(puzzles.score_answer(answer, puzzles[place.index]) >= 1)

    return judge
