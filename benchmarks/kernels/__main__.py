"""python -m benchmarks.kernels: rows go to a file at once, tables come at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.kernels import FAMILIES, measure_limits
from benchmarks.kernels.rows import Row
from gsr_engine.environment import describe_machine
from train.command import run_command

_SHARES = ("of_copy", "of_matmul")
_WIDTH = 160  # for output that is not a terminal


def main(
    quick: Annotated[bool, typer.Option(help="Fewer cases.")] = False,
    only: Annotated[
        str, typer.Option(help=", ".join(FAMILIES))
    ] = "decode,prefill,elementwise,experts",
    device: Annotated[str, typer.Option(help="Where to run.")] = "",
    out: Annotated[Path, typer.Option(help="Rows, as JSON lines.")] = Path("kernels.jsonl"),
) -> None:
    """Time the kernels; on a CPU, the references over tiny cases."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    console = Console(width=max(Console().width, _WIDTH))
    with out.open("w") as file:

        def emit(row: Row) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()
            console.print(_line(row), highlight=False)

        emit({"kernel": "machine", "case": device, **describe_machine()})
        emit(measure_limits(device).as_row())
        rows = []
        for family in only.split(","):
            for measure in FAMILIES[family]:
                rows += measure(device, quick, emit=emit)
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        console.print(_table(kernel, [row for row in rows if row["kernel"] == kernel]))


def _line(row: Row) -> str:
    facts = [f"{n} {_figure(n, v)}" for n, v in row.items() if n not in ("kernel", "case")]
    return f"{row['kernel']}: {row['case']}: {', '.join(facts)}"


def _table(kernel: str, rows: list[Row]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row if name != "kernel"))
    table = Table(title=kernel, title_justify="left")
    for name in names:
        is_text = name == "case" or name.endswith("failed")
        table.add_column(name.replace("_", " "), justify="left" if is_text else "right")
    for row in rows:
        table.add_row(*(_figure(name, row.get(name, "")) for name in names))
    return table


def _figure(name: str, value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if name in _SHARES:
        return f"{value:.0%}"
    return f"{value:.1e}" if name.endswith("error") else f"{value:.4g}"


if __name__ == "__main__":
    run_command("kernels", lambda: typer.run(main))
