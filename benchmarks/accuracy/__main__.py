"""python -m benchmarks.accuracy: how often each method is right, and what it costs.

One run draws max(k) candidates per problem once. Votes and choices at every k, refinements and all
other methods read the same first k of them, so all comparisons are paired. `--repeats` does all of
it again with other seeds. A separate cost run refines a share of the problems end to end in each
layout. The results are a folder, `--out`; `--run FOLDER` prints its tables again, without a model.

Every result is on disk as soon as it is there. The same command goes on after any interruption, to
the same samples, and prints the tables of a run that is finished. `--resume` is for scripts that
must not begin anew by mistake: it refuses a folder that holds no run.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.accuracy.models import ModelOptions, opened, refuse_set
from benchmarks.accuracy.run import can_go_on, measure
from benchmarks.analysis.results_json import write_results_json
from benchmarks.analysis.summary import summarize
from benchmarks.analysis.tables import show_summary
from benchmarks.samples.folder import Run, read_run
from benchmarks.tasks.registry import find_task
from benchmarks.tasks.task import BenchmarkProblem, Source, Task
from gsr_engine.errors import InvalidRequest
from train.command import run_command
from train.options import check_least, parse_options
from train.problems import parse_columns
from train.signals import resumable


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyCommand(ModelOptions):
    """The options of a run, or of the tables of an earlier one.

    Attributes:
        task: What is asked: aime24, aime25, amc22-23, math500, olympiadbench, kk, puzzles,
            gym:FAMILY, or a Python file with a task. Default: puzzles, or what --data holds.
        data: JSONL or Parquet with problem and answer, or a hub id, instead of the task's own.
        columns: FIELD=COLUMN,... where names of the data differ, as of train.problems.
        size_field: Field of the data to group by.
        split: Of a hub data set.
        limit: Only so many problems.
        out: Folder of the run.
        resume: Only go on with a run, never begin one.
        run: Print the tables of an earlier run, no model.
    """

    task: str | None = None
    data: str | None = None
    columns: str = ""
    size_field: str | None = None
    split: str | None = None
    limit: int | None = None
    out: Path = Path("runs/accuracy")
    resume: bool = False
    run: Path | None = None

    def __post_init__(self) -> None:
        """Raise InvalidRequest for values that cannot be."""
        ModelOptions.__post_init__(self)  # super() fails in a class with slots
        check_least(self, limit=1)
        if self.run is not None:
            others = (one.name for one in fields(self) if one.name != "run")
            refuse_set(self, "is for a run to do, and --run prints an earlier one", *others)

    def find_task(self) -> Task:
        """The task.

        Raises:
            InvalidRequest: there is no such task.
        """
        return find_task(self.task or ("puzzles" if self.data is None else "file"))

    def load_problems(self, task: Task) -> list[BenchmarkProblem]:
        """What is asked.

        Raises:
            InvalidRequest: as of the task.
        """
        return task.load(
            Source(
                data=self.data,
                columns=parse_columns(self.columns),
                size_field=self.size_field,
                split=self.split,
                count=self.limit,
                seed=self.seed,
            )
        )


def main(command: AccuracyCommand) -> None:
    """Measure selfRef@k beside votes, choices and other ways to merge, and what each costs."""
    console = Console()
    if command.run is not None:
        show_summary(console, summarize(read_run(command.run)))
        return
    if command.resume and not can_go_on(command.out):
        raise InvalidRequest("resume", f"{command.out} holds no run to go on with")
    with resumable():
        run = _measure(command)
    summary = summarize(run)
    results = write_results_json(command.out, run, summary)
    show_summary(console, summary)
    console.print(f"the run: {command.out}; in lm-eval's keys: {results.name}")


def _measure(command: AccuracyCommand) -> Run:
    task = command.find_task()
    problems = command.load_problems(task)
    about: dict[str, Any] = {
        "task": task.name,
        "task_version": task.version,
        "data": command.data or task.name,
    }
    with opened(command, problems) as models, task.grader(models.gsr) as grader:
        return measure(
            models.generator,
            problems,
            grader,
            command,
            command.out,
            about | models.about,
            models.weak,
            models.reward_model,
        )


if __name__ == "__main__":
    run_command(
        "accuracy",
        lambda: main(parse_options("benchmarks.accuracy", AccuracyCommand, main.__doc__ or "")),
    )
