"""Puzzles of reasoning-gym and their scorers, in a module that a worker imports in a moment."""

from __future__ import annotations

import multiprocessing as mp
import os
import random
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any
from unittest import mock

from train.judge import Judgement

Puzzle = dict[str, Any]
"""A puzzle as reasoning-gym makes it: `question`, `answer`, `metadata`."""


@cache
def gym_puzzles(family: str, seed: int, count: int) -> list[Puzzle]:
    """Puzzles of a family, the same ones in every process.

    Some families follow the order of sets of texts or the common random numbers, which differ from
    process to process. So the puzzles are made in a process that fixes both.
    """
    with (
        mock.patch.dict(os.environ, PYTHONHASHSEED="0"),
        ProcessPoolExecutor(1, mp_context=mp.get_context("spawn")) as pool,
    ):
        return pool.submit(_make, family, seed, count).result()


def _make(family: str, seed: int, count: int) -> list[Puzzle]:
    random.seed(seed)
    return list(_data_set(family, seed, count))


def _data_set(family: str, seed: int, count: int) -> Any:
    import reasoning_gym  # noqa: PLC0415  # an extra, seconds to import

    return reasoning_gym.create_dataset(family, seed=seed, size=count)


def full_mark() -> Judgement:
    """Judges (family, puzzle, answer): whether the family's scorer gives it the full mark."""
    scorer = cache(lambda family: _data_set(family, 0, 1))

    def judge(question: tuple[str, Puzzle, str]) -> bool:
        family, puzzle, answer = question
        return bool(scorer(family).score_answer(answer, puzzle) >= 1)

    return judge
