"""python -m benchmarks.scaling: what grows with what.

Four studies: the scheduler's cost per step and per queued request over the length of the queue; how
long a request can be overtaken; the host's share of a step of a real model's shape; the cost of
selfRef@k over k, lengths and the number of problems. Writes report.txt and plot.png.

Queue and fairness run on a stub in place of the model. The others run on random weights, because
cost depends on the shape only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.scaling.growth import AXES, Cost, SweepPoint, measure_growth
from benchmarks.scaling.host import HostShare, measure_host
from benchmarks.scaling.plot import plot_scaling
from benchmarks.scaling.queue import Fairness, QueueCost, measure_fairness, measure_queue
from gsr_engine import InvalidRequest
from gsr_engine.environment import describe_machine
from gsr_engine.params import LAYOUTS
from train.command import run_command

HOST_SHARE = 0.05
"""Largest share of a step that the host may take."""


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def show_queue(console: Console, costs: Sequence[QueueCost]) -> None:
    """The queue's table; ratios are to the shortest queue of the same kind."""
    table = _table(
        "queue: host time per step (plan + commit), model stubbed",
        "waiting",
        "deadlines",
        "µs / step",
        "ratio",
        "slowest of 100",
        "µs / submission",
        "bytes / request",
    )
    for cost in costs:
        first = next(one for one in costs if one.deadlines == cost.deadlines)
        table.add_row(
            f"{cost.waiting:,}",
            "all" if cost.deadlines else "none",
            f"{cost.step_us:,.0f}",
            f"{cost.step_us / first.step_us:.2f}",
            f"{cost.slowest_us:,.0f}",
            f"{cost.submit_us:,.0f}",
            f"{cost.request_bytes:,.0f}",
        )
    console.print(table)


def show_fairness(console: Console, rows: Sequence[Fairness]) -> None:
    """After how many later arrivals of a higher priority a request was finished."""
    table = _table(
        "fairness: one request of priority 0, an endless stream above it",
        "priority of the stream",
        "later arrivals until it finished",
        "bound",
        "",
    )
    for row in rows:
        kept = "kept" if row.arrivals <= row.bound else "missed"
        table.add_row(str(row.priority), f"{row.arrivals:,}", f"{row.bound:,}", kept)
    console.print(table)


def show_host(console: Console, share: HostShare) -> None:
    """Where the time of a decode step goes."""
    table = _table(
        f"host: a decode step of the {share.shape} shape, {share.streams} streams, "
        f"mean of {share.steps}",
        "part",
        "ms",
        "% of the step",
    )
    parts = {**share.parts, "host (all but model and draw)": share.host_ms, "step": share.step_ms}
    for name, ms in parts.items():
        table.add_row(name, f"{ms:,.2f}", f"{100 * ms / share.step_ms:.2f}")
    console.print(table)
    kept = "kept" if share.host_ms <= HOST_SHARE * share.step_ms else "missed"
    console.print(f"host below {HOST_SHARE:.0%} of the step: {kept}")


def show_growth(console: Console, costs: Sequence[Cost], shape: str, base: SweepPoint) -> None:
    """One line for each point of each axis; the ratio is branched to linear."""
    table = _table(
        f"selfRef@k on the {shape} shape: k {base.k}, problem {base.problem}, candidate "
        f"{base.candidate}, P {base.problems}, but for what is swept",
        "swept",
        "value",
        *(f"{layout}, {unit}" for unit in ("tokens", "s") for layout in LAYOUTS),
        "s ratio",
    )
    for before, cost in zip([None, *costs], costs, strict=False):
        if before is not None and before.axis != cost.axis:
            table.add_section()
        table.add_row(
            AXES[cost.axis],
            f"{cost.value:,}",
            *(f"{cost.tokens[layout]:,}" for layout in LAYOUTS),
            *(f"{cost.seconds[layout]:.2f}" for layout in LAYOUTS),
            f"{cost.seconds['branched'] / cost.seconds['linear']:.2f}",
        )
    console.print(table)


def _numbers(name: str, text: str, least: int = 1) -> list[int]:
    parts = text.split(",")
    if not all(part.isdigit() and int(part) >= least for part in parts):
        raise InvalidRequest(name, f"must be numbers from {least} on, got {text!r}")
    return [int(part) for part in parts]


def main(
    queue: Annotated[str, typer.Option(help="Queue lengths.")] = "100,1000,10000",
    queue_steps: Annotated[int, typer.Option(min=1, help="Steps at each length.")] = 1000,
    priorities: Annotated[str, typer.Option(help="Of the stream of fairness.")] = "1,4,16",
    shape: Annotated[str, typer.Option(help="Shape of the host's share.")] = "0.5b",
    streams: Annotated[int, typer.Option(min=4, help="Streams of the host's share.")] = 64,
    host_steps: Annotated[int, typer.Option(min=1, help="Decode steps timed.")] = 16,
    growth_shape: Annotated[str, typer.Option(help="Shape of selfRef@k.")] = "26m",
    k: Annotated[str, typer.Option(help="Candidates.")] = "1,2,4,8,16",
    problem: Annotated[str, typer.Option(help="Tokens of a problem.")] = "16,64,256,1024",
    candidate: Annotated[str, typer.Option(help="Tokens of a candidate.")] = "32,64,128,256",
    problems: Annotated[str, typer.Option(help="Problems at a time.")] = "1,2,4,8,16",
    refinement: Annotated[int, typer.Option(min=1, help="Tokens of a refinement.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of selfRef@k; the median counts.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of report and plot.")] = Path("runs/scaling"),
) -> None:
    """Measure what grows with the queue, with k, with lengths and with P; report and plot."""
    lengths, levels = _numbers("queue", queue, least=2), _numbers("priorities", priorities)
    sweeps = {
        name: _numbers(name, text)
        for name, text in zip(AXES, (k, problem, candidate, problems), strict=True)
    }
    said = Console(stderr=True)
    said.print("[dim]queue and fairness[/]")
    queues = measure_queue(lengths, queue_steps)
    fairness = [measure_fairness(level) for level in levels]
    said.print(f"[dim]the host's share on the {shape} shape[/]")
    share = measure_host(shape, streams, host_steps)
    base, costs = SweepPoint(), []
    for cost in measure_growth(growth_shape, base, sweeps, refinement, rounds):
        said.print(f"[dim]selfRef@k, {AXES[cost.axis]}: {cost.value}[/]")
        costs.append(cost)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "report.txt").open("w") as file:
        for console in (Console(), Console(file=file, width=120)):
            show_queue(console, queues)
            show_fairness(console, fairness)
            show_host(console, share)
            show_growth(console, costs, growth_shape, base)
            facts = describe_machine().items()
            console.print(", ".join(f"{name} {value}" for name, value in facts))
    plot_scaling(queues, share, costs, out / "plot.png")
    print(f"report: {out / 'report.txt'}, {out / 'plot.png'}")


if __name__ == "__main__":
    run_command("scaling", lambda: typer.run(main))
