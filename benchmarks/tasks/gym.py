"""Tasks of reasoning-gym: `gym:FAMILY` makes puzzles of a family, which grades its own answers.

An answer is what the checkpoint's pattern or the last box of a solution holds. It is right if the
family's `score_answer` gives it the full mark; parts of a mark count as wrong.

Most of reasoning-gym 0.1.25 can be asked this way. Three kinds of families hardly can:

- The answer is a grid or a list of moves over several lines, which a box seldom holds as it should
  be: arc_agi, binary_matrix, futoshiki, kakurasu, manipulate_matrix, mini_sudoku, modulo_grid,
  n_queens, pool_matrix, rearc, rotate_matrix, sudoku, survo, tower_of_hanoi.
- The answer may hold braces without a partner, which a box needs: codeio.
- The family knows no answer of its own, only whether one is right, so the gold says so: boxnet,
  graph_color, propositional_logic, rubiks_cube, rush_hour.

`composite` mixes families, and needs settings that a name does not give; it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Self

from benchmarks.tasks.gym_scorer import Puzzle, full_mark, gym_puzzles
from benchmarks.tasks.task import BenchmarkProblem, Source
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.grader import Grader
from train.judge import Judge

PREFIX = "gym:"
ANY = "(any answer that solves it)"
"""The gold of a family that only checks answers."""


class GymGold(str):
    """A gold answer that knows its puzzle, because the family's scorer reads the whole puzzle.

    Attributes:
        family, puzzle: the puzzle itself, as it was asked.
    """

    family: str
    puzzle: Puzzle

    def __new__(cls, family: str, puzzle: Puzzle) -> Self:
        """The puzzle's own answer, if it has one."""
        answer = puzzle["answer"]
        gold = super().__new__(cls, ANY if answer in (None, "") else answer)
        gold.family, gold.puzzle = family, puzzle
        return gold


@dataclass(frozen=True, slots=True)
class GymTask:
    """Puzzles of one family: 100, or as many as are asked for."""

    family: str

    @property
    def name(self) -> str:
        """As of `Task`."""
        return f"{PREFIX}{self.family}"

    @property
    def version(self) -> int:
        """As of `Task`."""
        return 1

    def load(self, source: Source) -> list[BenchmarkProblem]:
        """As of `Task`. `size_field` is a name in the puzzles' metadata, e.g. `num_terms`."""
        source.refuse(self.name, "data", "columns", "split")
        count = source.count or 100
        return [
            BenchmarkProblem(
                id=f"{self.family}-{source.seed}-{index}",
                text=puzzle["question"],
                gold=GymGold(self.family, puzzle),
                size=_size(puzzle["metadata"], source.size_field),
            )
            for index, puzzle in enumerate(gym_puzzles(self.family, source.seed, count))
        ]

    def grader(self, gsr: GsrConfig) -> AbstractContextManager[Grader]:
        """The family's own scorer, in a process that is killed when it hangs."""
        return GymGrader()


class GymGrader:
    """Asks the scorer of a puzzle's family. Use it as a context manager, or `close` it.

    Args:
        timeout: seconds for one answer, then the worker is killed and the answer is wrong.
    """

    def __init__(self, timeout: float = 5.0) -> None:
        self._judge = Judge(full_mark, timeout=timeout)

    def correct(self, answer: str | None, gold: str) -> bool:
        """Whether the scorer gives an answer the full mark.

        Raises:
            TypeError: the gold is a plain text, which does not say what puzzle it belongs to.
        """
        if not isinstance(gold, GymGold):
            raise TypeError("the golds of reasoning-gym come from its task's `load`")
        return answer is not None and self._judge.ask((gold.family, gold.puzzle, answer))

    def close(self) -> None:
        """Kill the worker."""
        self._judge.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def gym_task(family: str) -> GymTask:
    """The task of a family.

    Raises:
        InvalidRequest: reasoning-gym is not installed, or has no such family.
    """
    if find_spec("reasoning_gym") is None:
        raise InvalidRequest("task", "needs reasoning-gym: pip install 'gsr-engine[gym]'")
    from reasoning_gym.factory import DATASETS  # noqa: PLC0415  # an extra, seconds to import

    if family not in DATASETS or family == "composite":
        names = ", ".join(sorted(name for name in DATASETS if name != "composite"))
        raise InvalidRequest("task", f"{PREFIX}{family}: the families are {names}")
    return GymTask(family)


def _size(metadata: Mapping[str, Any], name: str | None) -> str:
    if name is None:
        return ""
    if name not in metadata:
        raise InvalidRequest("size_field", f"must be one of {', '.join(metadata)}; got {name!r}")
    return f"{name} {metadata[name]}"
