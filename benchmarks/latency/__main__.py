"""python -m benchmarks.latency: which k is worth its latency, here and for whom.

Measures selfRef@k over a grid of k, lengths and load: by this engine in process (each layout), by
`gsr serve` over HTTP (as one request, and as a client's loop: n = k candidates, then a refinement
of them), by transformers, by vLLM, and by any server of OpenAI's API (`--endpoint`). Of each cell:
time to the first token and to the first refined token, time per token, percentiles to the answer,
answers/s, tokens/s, goodput. Where answers are graded (`--task`) accuracy stands beside.

A closed loop has so many clients at once (`--at-once`), each of which asks again once it has its
answer. In an open loop (`--rate`) problems arrive at random, whatever waits; times count from the
arrival. Streams of a task have their natural length. `--lengths` fixes them instead, and grades
nothing.

Cells are kept in `--out` as they come. The same command goes on behind them, and another grid with
the same settings adds its own.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmarks.latency.cell import Cell, Measured, grid, lengths_of
from benchmarks.latency.figures import Figures, figures
from benchmarks.latency.journal import Journal
from benchmarks.latency.measure import Grid, Questions
from benchmarks.latency.plot import plot_closed, plot_open
from benchmarks.latency.systems import SYSTEMS, TOKEN_SYSTEMS, Setup, systems
from benchmarks.latency.table import WIDTH, show
from benchmarks.peers.servers import NotAnswered, Setting
from benchmarks.random_weights import SHAPES, write_checkpoint
from benchmarks.tasks.registry import find_task
from benchmarks.tasks.task import BenchmarkProblem, Source, Task
from gsr_engine import Engine, InvalidRequest
from gsr_engine.checkpoint.digest import tokenizer_digest, weights_digest
from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.demo.report import NANO
from gsr_engine.environment import describe_machine
from gsr_engine.evaluation.grader import Grader
from gsr_engine.params import LAYOUTS, MAX_CANDIDATES, Layout
from gsr_engine.serving.async_engine import AsyncEngine
from gsr_engine.speed.refine_speed import Lengths, problem_text
from train.command import run_command

_TEMPLATE_TOKENS = 256
"""More than a template's texts take, of a whole prompt; and of one candidate in it the next."""
_SEPARATOR_TOKENS = 32
_MAX_PENDING = 10_000
_MOST = 1 << 20


def _numbers(field: str, text: str, most: int) -> list[int]:
    """Numbers from 1 on, separated by commas. Raises InvalidRequest."""
    parts = [part for part in text.split(",") if part]
    if not all(part.isdecimal() and 1 <= int(part) <= most for part in parts):
        raise InvalidRequest(field, f"must be numbers from 1 to {most:,}, got {text!r}")
    return list(dict.fromkeys(map(int, parts)))


def _rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",") if part]
    except ValueError:
        rates = [0.0]
    if not all(0.0 < rate < float("inf") for rate in rates):
        raise InvalidRequest("rate", f"must be problems per second, above 0, got {text!r}")
    return list(dict.fromkeys(rates))


def _layouts(text: str | None, claimed: Sequence[Layout]) -> list[Layout]:
    chosen = list(claimed) if text is None else text.split(",")
    if unknown := [one for one in chosen if one not in LAYOUTS]:
        raise InvalidRequest("layouts", f"must be some of {', '.join(LAYOUTS)}, got {unknown[0]!r}")
    return [one for one in LAYOUTS if one in chosen]


def _check_shape(
    model: Path | None, names: Sequence[str], endpoint: str | None, is_fixed: bool
) -> None:
    """Raise InvalidRequest for what random weights cannot do: say something, and end."""
    if model is not None:
        raise InvalidRequest("shape", "contradicts --model")
    if not is_fixed:
        raise InvalidRequest("shape", "needs --lengths: random weights answer nothing")
    if endpoint is not None or not set(names) <= set(TOKEN_SYSTEMS):
        raise InvalidRequest(
            "systems", f"random weights write no text: only {', '.join(TOKEN_SYSTEMS)} with --shape"
        )


def _folder(model: Path | None, shape: str | None) -> Path:
    """Of the checkpoint."""
    if shape is not None:
        return write_checkpoint(shape)
    return NANO if model is None else find_checkpoint(model)


@contextmanager
def opened_engine(setting: Setting) -> Iterator[tuple[Engine, AsyncEngine]]:
    """The engine, and the front that owns it."""
    engine = Engine.from_pretrained(
        setting.model,
        dtype=setting.dtype,
        threads=setting.threads,
        kv_cache_gib=setting.kv_gib,
        generation_config="none",  # all systems draw from the model's own distribution
    )
    front = AsyncEngine(engine, max_pending=_MAX_PENDING)
    try:
        yield engine, front
    finally:
        asyncio.run(front.close())


def _asked(task: Task, source: Source) -> list[BenchmarkProblem]:
    """The problems of a task that can be asked, as many as there are to be; one more warms up."""
    problems = [one for one in task.load(source) if not one.error]
    wanted = source.count or 0
    if len(problems) < wanted:
        raise InvalidRequest(
            "count", f"{wanted - 1} and one more to warm up; {task.name} has {len(problems)}"
        )
    return problems[:wanted]


def _made(engine: Engine, lengths: Lengths, count: int, seed: int) -> list[BenchmarkProblem]:
    """Texts of about a number of tokens; nothing is the answer."""
    texts = (
        problem_text(engine.tokenizer, lengths.problem, seed * _MOST + i) for i in range(count + 1)
    )
    return [BenchmarkProblem(id=str(i), text=text, gold="") for i, text in enumerate(texts)]


def _longest(engine: Engine, ks: Sequence[int], lengths: Sequence[Lengths]) -> int:
    """Tokens of the longest context, or a few more."""
    most = max(
        _TEMPLATE_TOKENS
        + 2 * one.problem
        + max(ks) * (one.candidate + _SEPARATOR_TOKENS)
        + one.refine
        for one in lengths
    )
    return min(engine.limits.max_model_len, most)


@contextmanager
def _progress(cells: int, count: int) -> Iterator[Progress]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    text = TextColumn("[progress.description]{task.description}")
    with Progress(text, *columns, console=Console(stderr=True)) as progress:
        progress.add_task("", total=cells * count)
        yield progress


def _measure(grid_: Grid, cells: Sequence[Cell], count: int) -> list[Measured]:
    """With a bar of all answers, which says what is measured now."""
    with _progress(len(cells), count) as progress:
        (bar,) = progress.task_ids
        grid_.note = progress.console.print
        return grid_.measure(
            cells, lambda cell, more: progress.update(bar, advance=more, description=str(cell))
        )


def _write(
    out: Path,
    found: Sequence[Figures],
    left_out: dict[Cell, str],
    settings: dict[str, Any],
    deadline: float | None,
) -> None:
    """Tables, JSON and pictures."""
    facts = describe_machine()
    console = Console(record=True, width=WIDTH)
    show(console, found, left_out, deadline)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
    (out / "latency.txt").write_text(console.export_text(), encoding="utf-8")
    result = {
        "settings": settings,
        "machine": facts,
        "deadline": deadline,
        "cells": [asdict(one) for one in found],
        "left_out": [[asdict(cell), reason] for cell, reason in left_out.items()],
    }
    (out / "latency.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    title = f"selfRef@k of {settings['model']}, {settings['dtype']}, threads: {settings['threads']}"
    if closed := [one for one in found if one.cell.at_once]:
        plot_closed(closed, title, out / "latency.png")
    if opened := [one for one in found if one.cell.rate]:
        plot_open(opened, deadline, f"{title}; k {opened[0].cell.k}", out / "goodput.png")


def main(
    model: Annotated[
        Path | None,
        typer.Option(help="A checkpoint folder or hub id. [default: nano]", show_default=False),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help=f"Instead: random weights of a shape ({', '.join(SHAPES)}); with --lengths, and "
            f"for systems that take token ids ({', '.join(TOKEN_SYSTEMS)})."
        ),
    ] = None,
    chosen: Annotated[
        str,
        typer.Option("--systems", help=f"Some of {', '.join(SYSTEMS)}; empty for none."),
    ] = "engine,gsr-serve,transformers",
    endpoint: Annotated[
        str | None,
        typer.Option(help="A server of OpenAI's API, besides; it serves this model."),
    ] = None,
    k: Annotated[str, typer.Option(help="Candidates, with commas.")] = "1,2,4,8,16",
    layouts: Annotated[
        str | None,
        typer.Option(help="linear, branched. [default: what the model claims]", show_default=False),
    ] = None,
    task: Annotated[str, typer.Option(help="Asked and graded: a task of benchmarks.tasks.")] = (
        "puzzles"
    ),
    data: Annotated[str | None, typer.Option(help="Problems of the task, from a file.")] = None,
    lengths: Annotated[
        str,
        typer.Option(
            help="Instead of a task: tokens of problem/candidate/refinement, such as 128/256/128; "
            "several with commas."
        ),
    ] = "",
    at_once: Annotated[str, typer.Option(help="Clients of a closed loop, with commas.")] = "1",
    rate: Annotated[
        str, typer.Option(help="Problems/s that arrive in an open loop, with commas.")
    ] = "",
    count: Annotated[int, typer.Option(min=1, help="Problems of each cell.")] = 32,
    rounds: Annotated[
        int, typer.Option(min=1, help="Runs of each cell, in turns; the fastest counts.")
    ] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most of a stream of a task.")] = 1024,
    deadline: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds that an answer may take: goodput.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of problems, arrivals and draws.")] = 1,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.")] = None,
    kv_gib: Annotated[float, typer.Option(help="Memory for keys and values, each engine.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Folder for all results.")] = Path("runs/latency"),
) -> None:
    """Measure what selfRef@k costs and gains over k, lengths and load."""
    ks, loops = _numbers("k", k, MAX_CANDIDATES), _numbers("at-once", at_once, _MOST)
    rates, fixed = _rates(rate), [lengths_of(one) for one in lengths.split(",") if one]
    if not loops and not rates:
        raise InvalidRequest("at-once", "there is neither a closed loop nor a rate")
    names, asked = [one for one in chosen.split(",") if one], find_task(task)
    if threads:
        torch.set_num_threads(threads)
    if shape is not None:
        _check_shape(model, names, endpoint, bool(fixed))
    folder = _folder(model, shape)
    setting = Setting(
        model=folder, dtype=dtype, threads=torch.get_num_threads(), kv_gib=kv_gib, out=out
    )
    settings = {
        "model": shape or ("nano" if model is None else str(model)),
        "weights": weights_digest(folder),
        "tokenizer": tokenizer_digest(folder),
        "dtype": dtype,
        "threads": setting.threads,
        "kv_gib": kv_gib,
        "endpoint": endpoint,
        "task": task,
        "task_version": asked.version,
        "data": data,
        "count": count,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    with opened_engine(setting) as (engine, front):
        claimed: tuple[Layout, ...] = engine.gsr.layouts if engine.gsr.trained else ("linear",)
        natural = Lengths(_TEMPLATE_TOKENS, max_tokens, max_tokens)
        setup = Setup(
            engine=engine,
            front=front,
            setting=setting,
            layouts=_layouts(layouts, claimed),
            longest=_longest(engine, ks, fixed or [natural]),
            most_at_once=max([*loops, *([count] if rates else [])]),
        )
        every = {one.name: one for one in systems(names, endpoint, setup)}
        cells = list(grid(list(every), ks, fixed or [None], loops, rates, rounds))
        problems: dict[Lengths | None, list[BenchmarkProblem]]
        grading: AbstractContextManager[Grader | None] = nullcontext()
        if fixed:
            problems = {one: _made(engine, one, count, seed) for one in fixed}
        else:
            problems = {None: _asked(asked, Source(data=data, count=count + 1, seed=seed))}
            grading = asked.grader(engine.gsr)
        with grading as grader, Journal(out, settings) as journal:
            questions = Questions(
                problems=problems, max_tokens=max_tokens, seed=seed, grader=grader
            )
            found = Grid(every, questions, journal, print)
            measured = _measure(found, cells, count)
    if not measured:
        raise NotAnswered(f"no cell has figures: {next(iter(found.left_out.values()))}")
    _write(out, figures(measured, deadline), found.left_out, settings, deadline)


if __name__ == "__main__":
    # Servers end with it, as they do after an interrupt.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_command("latency", lambda: typer.run(main))
