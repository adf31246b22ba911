"""Tasks whose problems stand in a data set: the mathematical ones of the paper, and any file.

A data set of the hub is read by `datasets`, which keeps what it loaded. `--data` names a local copy
instead, with the columns `problem` and `answer`.

Ids, splits and columns were taken from public programs that read these data sets, and from the card
of aime_2024; nothing was downloaded. Of OlympiadBench's English text-only mathematics there are
copies of 674 problems, and of 675, of which 15 cannot be solved as they are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from benchmarks.tasks.rows import load_rows
from benchmarks.tasks.task import BenchmarkProblem, Source
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.evaluation.grader import Grader
from train.grading import SymbolicGrader


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A set of problems whose answers are mathematics.

    Attributes:
        name, version: as of `Task`.
        hub: id of the data set; None if it must be named.
        split, columns: of that data set.
    """

    name: str
    hub: str | None = None
    split: str = "test"
    columns: Mapping[str, str] = field(default_factory=dict)
    version: int = 1

    def load(self, source: Source) -> list[BenchmarkProblem]:
        """As of `Task`."""
        return load_rows(source, self.hub, self.split, self.columns)

    def grader(self, gsr: GsrConfig) -> AbstractContextManager[Grader]:
        """The equality that votes, and math-verify where that cannot decide."""
        return SymbolicGrader()


FILE = DataSet(name="file")
"""Any data set: `--data` must name it."""
AIME24 = DataSet(name="aime24", hub="HuggingFaceH4/aime_2024", split="train")
AIME25 = DataSet(name="aime25", hub="math-ai/aime25")
AMC = DataSet(name="amc22-23", hub="AI-MO/aimo-validation-amc", split="train")
MATH500 = DataSet(
    name="math500",
    hub="HuggingFaceH4/MATH-500",
    columns={"id": "unique_id", "size": "level"},
)
OLYMPIAD = DataSet(
    name="olympiadbench",
    hub="math-ai/olympiadbench",
    columns={"problem": "question", "answer": "final_answer"},
)
