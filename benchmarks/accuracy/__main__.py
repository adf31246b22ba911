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

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.engine_generator import EngineGenerator
from benchmarks.accuracy.run import Weak, can_go_on, measure
from benchmarks.analysis.summary import summarize
from benchmarks.analysis.tables import show_summary
from benchmarks.samples.folder import read_run
from benchmarks.tasks.registry import find_task
from benchmarks.tasks.task import BenchmarkProblem, Source, Task
from gsr_engine import Engine, InvalidRequest
from gsr_engine.checkpoint.digest import tokenizer_digest, weights_digest
from gsr_engine.checkpoint.files import find_adapter, find_checkpoint
from gsr_engine.demo.report import NANO
from train.command import run_command
from train.options import check_least, parse_options
from train.problems import parse_columns
from train.signals import resumable


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyCommand(AccuracyConfig):
    """The options of a run, or of the tables of an earlier one.

    Attributes:
        model: Checkpoint folder or hub id.
        adapter: LoRA adapter over it, as peft saves it: folder or hub id.
        task: What is asked: aime24, aime25, amc22-23, math500, olympiadbench, kk, puzzles,
            gym:FAMILY, or a Python file with a task. Default: puzzles, or what --data holds.
        data: JSONL or Parquet with problem and answer, or a hub id, instead of the task's own.
        columns: FIELD=COLUMN,... where names of the data differ, as of train.problems.
        size_field: Field of the data to group by.
        split: Of a hub data set.
        limit: Only so many problems.
        dtype: auto, float32 or bfloat16.
        quantization: auto, none, int8 or fp8.
        template: Other prompts: a built-in name, or a file in the format of gsr.json.
        max_model_len: Longest context in tokens; the checkpoint's if not given.
        weak_model: Writes the weak candidates of --pools.
        out: Folder of the run.
        resume: Only go on with a run, never begin one.
        run: Print the tables of an earlier run, no model.
    """

    model: str = str(NANO)
    adapter: str | None = None
    task: str | None = None
    data: str | None = None
    columns: str = ""
    size_field: str | None = None
    split: str | None = None
    limit: int | None = None
    dtype: str = "auto"
    quantization: str = "auto"
    template: str | None = None
    max_model_len: int | None = None
    weak_model: str | None = None
    out: Path = Path("runs/accuracy")
    resume: bool = False
    run: Path | None = None

    def __post_init__(self) -> None:
        """Raise InvalidRequest for values that cannot be."""
        AccuracyConfig.__post_init__(self)  # super() fails in a class with slots
        check_least(self, limit=1)

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
        show(console, command.run)
        return
    if command.resume and not can_go_on(command.out):
        raise InvalidRequest("resume", f"{command.out} holds no run to go on with")
    with resumable():
        _measure(command)
    show(console, command.out)
    console.print(f"the run: {command.out}")


def show(console: Console, folder: Path) -> None:
    """Print the tables of a run."""
    show_summary(console, summarize(read_run(folder)))


def _measure(command: AccuracyCommand) -> None:
    task = command.find_task()
    problems = command.load_problems(task)
    folder, weak_folder = find_checkpoint(command.model), None
    adapter = None if command.adapter is None else find_adapter(command.adapter)
    about: dict[str, Any] = {
        "task": task.name,
        "task_version": task.version,
        "data": command.data or task.name,
        "model": command.model + ("" if adapter is None else f" with {command.adapter}"),
        "weights": weights_digest(folder, adapter),
        "tokenizer": tokenizer_digest(folder),
    }
    if command.weak_model is not None:
        weak_folder = find_checkpoint(command.weak_model)
        about |= {"weak_model": command.weak_model, "weak_weights": weights_digest(weak_folder)}
    with _engine(command, folder, adapter=adapter, template=command.template) as engine:
        generator = EngineGenerator(engine, problems, command)
        with task.grader(engine.gsr) as grader, _weak(command, weak_folder, problems) as weak:
            measure(generator, problems, grader, command, command.out, about, weak)


@contextmanager
def _weak(
    command: AccuracyCommand, folder: Path | None, problems: list[BenchmarkProblem]
) -> Iterator[Weak | None]:
    """The model of weak candidates, if there is one."""
    if folder is None:
        yield None
        return
    same = tokenizer_digest(folder) == tokenizer_digest(find_checkpoint(command.model))
    with _engine(command, folder) as engine:
        yield Weak(EngineGenerator(engine, problems, command), same)


def _engine(command: AccuracyCommand, folder: Path, **others: Any) -> Engine:
    # No prefix cache: each method pays for its own prompts, and no result depends on an earlier.
    return Engine.from_pretrained(
        folder,
        dtype=command.dtype,
        quantization=command.quantization,
        generation_config="none",
        max_model_len=command.max_model_len,
        prefix_cache=False,
        **others,
    )


if __name__ == "__main__":
    run_command(
        "accuracy",
        lambda: main(parse_options("benchmarks.accuracy", AccuracyCommand, main.__doc__ or "")),
    )
