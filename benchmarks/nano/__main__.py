"""python -m benchmarks.nano: what the model in the box must show, on puzzles it never saw.

Runs the accuracy benchmark over held-out puzzles, checks every promise with paired 95 % bootstrap
intervals, writes the run, a report and a plot, and exits non-zero when a promise is missed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.analysis.summary import summarize
from benchmarks.analysis.tables import show_summary
from benchmarks.nano.plot import plot_report
from benchmarks.nano.promises import check_promises, evaluate, show_promises
from benchmarks.samples.folder import read_run
from gsr_engine.demo.puzzles import PuzzleStream
from train.command import run_command


def main(
    model: Annotated[Path, typer.Option(help="Checkpoint folder.")] = Path("runs/nano/model"),
    puzzles: Annotated[int, typer.Option(help="Held-out puzzles.")] = 2000,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("runs/nano/report"),
    stream: Annotated[
        PuzzleStream, typer.Option(help="validation: puzzles to choose by.")
    ] = "test",
    run: Annotated[Path | None, typer.Option(help="Judge an earlier run.")] = None,
) -> None:
    """Evaluate, report, and exit 1 when a promise is missed."""
    done = read_run(run) if run else evaluate(model, puzzles, out, stream)
    promises, summary = check_promises(done), summarize(done)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "report.txt").open("w") as file:
        for console in (Console(), Console(file=file, width=140)):
            show_summary(console, summary)
            show_promises(console, promises)
    plot_report(done, out / "report.png")
    print(f"report: {out / 'report.txt'}, {out / 'report.png'}")
    if not all(promise.kept for promise in promises):
        raise typer.Exit(1)


if __name__ == "__main__":
    run_command("nano", lambda: typer.run(main))
