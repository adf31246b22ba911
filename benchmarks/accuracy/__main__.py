"""python -m benchmarks.accuracy: how often each method is right, and what it costs.

One run draws max(k) candidates per problem once; pass@k, maj@k, best-of-k and selfRef@k at every k
read the same first k of them, so all comparisons are paired. A separate cost run refines a share of
the problems end to end in each layout. Everything goes into one samples file, from which
`--samples FILE` prints the table again without a model.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.accuracy.problems import graded_problems, puzzle_problems
from benchmarks.accuracy.results import read_results, write_results
from benchmarks.accuracy.run import AccuracyConfig, AccuracyRun
from benchmarks.accuracy.table import show_table
from gsr_engine import (
    Engine,
    GsrError,
    InvalidRequest,
    SelfRefineParams,
)
from gsr_engine.demo.report import NANO
from gsr_engine.evaluation.grader import ExactGrader
from train.grading import SymbolicGrader


def main(
    model: Annotated[str, typer.Option(help="Checkpoint folder or hub id.")] = str(NANO),
    data: Annotated[Path | None, typer.Option(help="JSONL with problem and answer.")] = None,
    size_field: Annotated[str | None, typer.Option(help="Field of --data to group by.")] = None,
    puzzles: Annotated[
        int, typer.Option(min=1, help="Held-out puzzles, when no --data is given.")
    ] = 1000,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first problems of --data.")
    ] = None,
    k: Annotated[str, typer.Option(help="Candidate counts, comma separated.")] = "1,2,4,8",
    layouts: Annotated[str | None, typer.Option(help="Default: what the model claims.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Per candidate and refinement.")] = None,
    seed: Annotated[int, typer.Option(help="Of puzzles and streams.")] = 1,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    out: Annotated[Path, typer.Option(help="Samples file to write.")] = Path("runs/accuracy.jsonl"),
    samples: Annotated[
        Path | None, typer.Option(help="Print the table of an earlier samples file, no model.")
    ] = None,
) -> None:
    """Measure pass@1, maj@k, best-of-k, selfRef@k, by number of right candidates, and the cost."""
    console = Console()
    if samples is not None:
        show_table(console, *read_results(samples))
        return
    if not all(part.isdigit() and int(part) for part in k.split(",")):
        raise InvalidRequest("k", f"must be candidate counts, comma separated, got {k!r}")
    ks = tuple(sorted({int(part) for part in k.split(",")}))
    problems = (
        puzzle_problems("test", seed, puzzles)
        if data is None
        else graded_problems(data, size_field)
    )[:limit]
    with (
        Engine.from_pretrained(model, dtype=dtype, prefix_cache=False) as engine,
        nullcontext(ExactGrader()) if data is None else SymbolicGrader() as grader,
    ):
        config = AccuracyConfig(
            ks=ks,
            headline=4 if 4 in ks else ks[-1],
            layouts=tuple(layouts.split(",")) if layouts else engine.gsr.layouts,
            max_tokens=max_tokens,
            seed=seed,
        )
        for layout in config.layouts:  # before hours of candidates are drawn
            SelfRefineParams(layout=layout)  # type: ignore[arg-type]
        run, rows = AccuracyRun(engine, problems, grader, config).run()
    run |= {"model": model, "data": str(data or f"{puzzles} puzzles of test stream {seed}")}
    write_results(out, run, rows)
    show_table(console, run, rows)
    console.print(f"samples: {out}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (GsrError, OSError) as error:
        raise SystemExit(f"accuracy: {error}") from None
