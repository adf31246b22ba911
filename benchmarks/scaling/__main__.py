"""python -m benchmarks.scaling: what grows with what.

Five studies: the scheduler's cost per step and per queued request over the length of the queue; the
asyncio front's cost over the clients that wait for room; how long a request can be overtaken; the
host's share of a step of a real model's shape; the host's work for a GPU while streams join and
leave. Writes report.txt, and plot.png if the queue and the host are studied. How selfRef@k grows
over k, lengths and problems is `benchmarks.latency`.

The host's share runs on random weights, because cost depends on the shape only. The others run on a
stub in place of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.scaling.front import measure_front
from benchmarks.scaling.host import measure_host
from benchmarks.scaling.plot import plot_scaling
from benchmarks.scaling.queue import measure_fairness, measure_queue
from benchmarks.scaling.ragged import measure_ragged
from benchmarks.scaling.tables import (
    show_fairness,
    show_front,
    show_host,
    show_queue,
    show_ragged,
)
from gsr_engine import InvalidRequest
from gsr_engine.environment import describe_machine
from train.command import run_command

STUDIES = ("queue", "front", "fairness", "host", "ragged")


def _numbers(name: str, text: str, least: int = 1) -> list[int]:
    parts = text.split(",")
    if not all(part.isdigit() and int(part) >= least for part in parts):
        raise InvalidRequest(name, f"must be numbers from {least} on, got {text!r}")
    return [int(part) for part in parts]


def _chosen(only: str) -> list[str]:
    names = only.split(",")
    if unknown := [name for name in names if name not in STUDIES]:
        raise InvalidRequest("only", f"must be some of {', '.join(STUDIES)}, got {unknown[0]!r}")
    return names


def _report(out: Path, tables: list[Callable[[Console], None]]) -> None:
    """Print the tables, and write them to report.txt."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "report.txt").open("w") as file:
        for console in (Console(), Console(file=file, width=120)):
            for show in tables:
                show(console)
            facts = describe_machine().items()
            console.print(", ".join(f"{name} {value}" for name, value in facts))
    print(f"report: {out / 'report.txt'}")


def main(
    only: Annotated[str, typer.Option(help="Which studies.")] = ",".join(STUDIES),
    queue: Annotated[str, typer.Option(help="Waiting requests, or clients.")] = "0,1000,8000",
    queue_steps: Annotated[int, typer.Option(min=1, help="Steps at each length.")] = 1000,
    priorities: Annotated[str, typer.Option(help="Of the stream of fairness.")] = "1,4,16",
    shape: Annotated[str, typer.Option(help="Shape of the host's share.")] = "0.5b",
    streams: Annotated[int, typer.Option(min=4, help="Streams of the host's share.")] = 64,
    host_steps: Annotated[int, typer.Option(min=1, help="Decode steps timed.")] = 16,
    ragged: Annotated[str, typer.Option(help="Streams that join and leave.")] = "1,64,256",
    out: Annotated[Path, typer.Option(help="Folder of report and plot.")] = Path("runs/scaling"),
) -> None:
    """Measure what grows with the queue, and the host's share of a step; report and plot."""
    chosen, said = _chosen(only), Console(stderr=True)
    lengths, levels = _numbers("queue", queue, least=0), _numbers("priorities", priorities)
    tables: list[Callable[[Console], None]] = []
    said.print(f"[dim]{', '.join(chosen)}[/]")
    if "queue" in chosen:
        queues = measure_queue(lengths, queue_steps)
        tables.append(partial(show_queue, costs=queues))
    if "front" in chosen:
        tables.append(partial(show_front, costs=measure_front(lengths, queue_steps)))
    if "fairness" in chosen:
        tables.append(partial(show_fairness, rows=[measure_fairness(level) for level in levels]))
    if "host" in chosen:
        share = measure_host(shape, streams, host_steps)
        tables.append(partial(show_host, share=share))
    if "ragged" in chosen:
        loads = [measure_ragged(number, queue_steps) for number in _numbers("ragged", ragged)]
        tables.append(partial(show_ragged, costs=loads))
    _report(out, tables)
    if {"queue", "host"} <= set(chosen):
        plot_scaling(queues, share, out / "plot.png")
        print(f"plot: {out / 'plot.png'}")


if __name__ == "__main__":
    run_command("scaling", lambda: typer.run(main))
