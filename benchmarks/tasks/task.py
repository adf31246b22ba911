"""What a benchmark task is: problems with golds, and the grader of their answers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.evaluator import Exercise
from gsr_engine.evaluation.grader import Grader


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkProblem(Exercise):
    """A problem with its gold answer; results are grouped by `size` ("": not grouped).

    `error` says why it cannot be asked; "" if it can.
    """

    id: str
    size: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a task's problems come from.

    Attributes:
        data: JSONL or Parquet, a folder of them, or a hub id, instead of the task's own data set.
        columns: column by field, as of `train.problems.iterate_problems`.
        size_field: column to group results by.
        split: of a hub data set; None takes the task's own, else "train".
        count: most problems. None is all of a data set, and a task's usual number of made ones.
        seed: of made problems.
    """

    data: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    size_field: str | None = None
    split: str | None = None
    count: int | None = None
    seed: int = 0

    def refuse(self, task: str, *names: str) -> None:
        """Raise InvalidRequest if one of these fields is set: the task could not use it."""
        for name in names:
            if getattr(self, name):
                raise InvalidRequest(name, f"the task {task} makes its problems, and cannot use it")


@runtime_checkable
class Task(Protocol):
    """A benchmark task."""

    @property
    def name(self) -> str:
        """What `--task` calls it."""

    @property
    def version(self) -> int:
        """Grows when the same answers would be asked for or graded otherwise."""

    def load(self, source: Source) -> list[BenchmarkProblem]:
        """The problems, with distinct ids; each text is what the model is asked.

        Raises:
            InvalidRequest: there are none, or `source` has something that the task cannot use.
        """

    def grader(self, gsr: GsrConfig) -> AbstractContextManager[Grader]:
        """The grader of answers to these problems, for a checkpoint.

        It gets the golds of `load` themselves: a gold may be a `str` that knows its problem.
        """
