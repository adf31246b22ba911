"""python -m benchmarks.accuracy: how often each method is right, and what it costs.

One run draws max(k) candidates per problem once; pass@k, maj@k, best-of-k and selfRef@k at every k
read the same first k of them, so all comparisons are paired. A separate cost run refines a share of
the problems end to end in each layout. All results go into one samples file. `--samples FILE`
prints the table of such a file again, without a model.

Every result is on disk as soon as it is there (OUT.journal). The same command goes on after any
interruption, to the same samples.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.problems import BenchmarkProblem, graded_problems, puzzle_problems
from benchmarks.accuracy.results import read_results
from benchmarks.accuracy.run import measure
from benchmarks.accuracy.table import show_table
from gsr_engine import Engine
from gsr_engine.checkpoint.digest import tokenizer_digest, weights_digest
from gsr_engine.checkpoint.files import find_adapter, find_checkpoint
from gsr_engine.demo.report import NANO
from gsr_engine.evaluation.grader import ExactGrader
from train.command import run_command
from train.grading import SymbolicGrader
from train.options import check_least, parse_options
from train.problems import parse_columns
from train.signals import resumable


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyCommand(AccuracyConfig):
    """The options of a run, or of the table of an earlier one.

    Attributes:
        model: Checkpoint folder or hub id.
        adapter: LoRA adapter over it, as peft saves it: folder or hub id.
        data: JSONL with problem and answer.
        columns: FIELD=COLUMN,... where names of --data differ, as of train.problems.
        size_field: Field of --data to group by.
        puzzles: Held-out puzzles, when no --data is given.
        limit: Only the first problems of --data.
        dtype: auto, float32 or bfloat16.
        quantization: auto, none, int8 or fp8.
        template: Other prompts: a built-in name, or a file in the format of gsr.json.
        max_model_len: Longest context in tokens; the checkpoint's if not given.
        out: Samples file to write.
        samples: Print the table of an earlier samples file, no model.
    """

    model: str = str(NANO)
    adapter: str | None = None
    data: Path | None = None
    columns: str = ""
    size_field: str | None = None
    puzzles: int = 1000
    limit: int | None = None
    dtype: str = "auto"
    quantization: str = "auto"
    template: str | None = None
    max_model_len: int | None = None
    out: Path = Path("runs/accuracy.jsonl")
    samples: Path | None = None

    def __post_init__(self) -> None:
        """Raise InvalidRequest for values that cannot be."""
        AccuracyConfig.__post_init__(self)  # super() fails in a class with slots
        check_least(self, puzzles=1, limit=1)

    def load_problems(self) -> list[BenchmarkProblem]:
        """What is asked.

        Raises:
            InvalidRequest: as `graded_problems`.
        """
        if self.data is None:
            return puzzle_problems("test", self.seed, self.puzzles)[: self.limit]
        return graded_problems(self.data, self.size_field, parse_columns(self.columns))[
            : self.limit
        ]


def main(command: AccuracyCommand) -> None:
    """Measure pass@1, maj@k, best-of-k, selfRef@k, by number of right candidates, and the cost."""
    console = Console()
    if command.samples is not None:
        show_table(console, *read_results(command.samples))
        return
    with resumable():
        _measure(command, console)


def _measure(command: AccuracyCommand, console: Console) -> None:
    problems = command.load_problems()
    folder = find_checkpoint(command.model)
    adapter = None if command.adapter is None else find_adapter(command.adapter)
    about = {
        "model": command.model + ("" if adapter is None else f" with {command.adapter}"),
        "weights": weights_digest(folder, adapter),
        "tokenizer": tokenizer_digest(folder),
        "data": str(command.data or f"{command.puzzles} puzzles of test stream {command.seed}"),
    }
    with (
        Engine.from_pretrained(
            folder,
            adapter=adapter,
            dtype=command.dtype,
            quantization=command.quantization,
            template=command.template,
            generation_config="none",
            max_model_len=command.max_model_len,
            prefix_cache=False,
        ) as engine,
        nullcontext(ExactGrader()) if command.data is None else SymbolicGrader() as grader,
    ):
        run, rows = measure(engine, problems, grader, command, command.out, about)
    show_table(console, run, rows)
    console.print(f"samples: {command.out}")


if __name__ == "__main__":
    run_command(
        "accuracy",
        lambda: main(parse_options("benchmarks.accuracy", AccuracyCommand, main.__doc__ or "")),
    )
