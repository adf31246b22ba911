"""python -m benchmarks.accuracy: how often each method is right, and what it costs.

One run draws max(k) candidates per problem once; pass@k, maj@k, best-of-k and selfRef@k at every k
read the same first k of them, so all comparisons are paired. A separate cost run refines a share of
the problems end to end in each layout. All results go into one samples file. `--samples FILE`
prints the table of such a file again, without a model.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.accuracy.problems import BenchmarkProblem, graded_problems, puzzle_problems
from benchmarks.accuracy.results import read_results, write_results
from benchmarks.accuracy.run import AccuracyConfig, AccuracyRun, at_least_one
from benchmarks.accuracy.table import show_table
from gsr_engine import Engine
from gsr_engine.demo.report import NANO
from gsr_engine.evaluation.grader import ExactGrader
from train.command import run_command
from train.grading import SymbolicGrader
from train.options import parse_options


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyCommand(AccuracyConfig):
    """The options of a run, or of the table of an earlier one.

    Attributes:
        model: Checkpoint folder or hub id.
        data: JSONL with problem and answer.
        size_field: Field of --data to group by.
        puzzles: Held-out puzzles, when no --data is given.
        limit: Only the first problems of --data.
        dtype: auto, float32 or bfloat16.
        max_model_len: Longest context in tokens; the checkpoint's if not given.
        out: Samples file to write.
        samples: Print the table of an earlier samples file, no model.
    """

    model: str = str(NANO)
    data: Path | None = None
    size_field: str | None = None
    puzzles: int = 1000
    limit: int | None = None
    dtype: str = "auto"
    max_model_len: int | None = None
    out: Path = Path("runs/accuracy.jsonl")
    samples: Path | None = None

    def __post_init__(self) -> None:
        AccuracyConfig.__post_init__(self)  # super() fails in a class with slots
        at_least_one("puzzles", self.puzzles)
        at_least_one("limit", self.limit)

    def load_problems(self) -> list[BenchmarkProblem]:
        """What is asked.

        Raises:
            InvalidRequest: as `graded_problems`.
        """
        if self.data is None:
            return puzzle_problems("test", self.seed, self.puzzles)[: self.limit]
        return graded_problems(self.data, self.size_field)[: self.limit]


def main(command: AccuracyCommand) -> None:
    """Measure pass@1, maj@k, best-of-k, selfRef@k, by number of right candidates, and the cost."""
    console = Console()
    if command.samples is not None:
        show_table(console, *read_results(command.samples))
        return
    problems = command.load_problems()
    with (
        Engine.from_pretrained(
            command.model,
            dtype=command.dtype,
            max_model_len=command.max_model_len,
            prefix_cache=False,
        ) as engine,
        nullcontext(ExactGrader()) if command.data is None else SymbolicGrader() as grader,
    ):
        run, rows = AccuracyRun(engine, problems, grader, command).run()
    data = command.data or f"{command.puzzles} puzzles of test stream {command.seed}"
    run |= {"model": command.model, "data": str(data)}
    write_results(command.out, run, rows)
    show_table(console, run, rows)
    console.print(f"samples: {command.out}")


if __name__ == "__main__":
    run_command(
        "accuracy",
        lambda: main(parse_options("benchmarks.accuracy", AccuracyCommand, main.__doc__ or "")),
    )
