"""python -m benchmarks.training.builder: `train.build` on many synthetic records.

Runs both commands over records of realistic lengths (`builder_inputs`). For each it prints seconds,
records per second, the peak memory of all its processes, and bytes on disk. Memory is anonymous
memory: pages of files do not count, because the system can drop them. Half of the records are
direct rows, half are refinements, whose layouts alternate.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.training.builder_inputs import (
    Cutter,
    Inputs,
    answer_sets,
    corpus,
    write_inputs,
    write_student,
)
from gsr_engine.environment import describe_machine
from train.command import run_command


@dataclass(frozen=True, slots=True)
class Measured:
    """One command: its time, and the most memory of it and its children."""

    seconds: float
    peak_bytes: int
    written_bytes: int


def measure(arguments: list[str], out: Path) -> Measured:
    """Run `train.build` in a process of its own.

    Raises:
        ChildProcessError: it failed.
    """
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(  # noqa: S603  # our own command
        [sys.executable, "-m", "train.build", *arguments]
    )
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, _anonymous_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    done.set()
    watcher.join()
    if status:
        raise ChildProcessError(f"train.build {arguments[0]} ended with status {status}")
    seconds = time.perf_counter() - start
    return Measured(seconds, peak, _bytes_of(out))


def refine_arguments(inputs: Inputs, student: Path, sets: Path) -> list[str]:
    """Arguments of `train.build` that make candidate sets of the inputs."""
    return [
        "refine",
        f"--problems={inputs.problems}",
        f"--model={student}",
        f"--candidates={inputs.candidates}",
        f"--out={sets}",
        "--no-balance",
    ]


def hybrid_arguments(inputs: Inputs, student: Path, sets: Path, out: Path) -> list[str]:
    """Arguments of `train.build` that make a data set of the inputs and of their sets."""
    return [
        "hybrid",
        f"--problems={inputs.problems}",
        f"--model={student}",
        f"--refine={sets}",
        f"--direct-targets={inputs.direct_targets}",
        f"--refine-targets={inputs.refine_targets}",
        f"--decontaminate={inputs.evaluation}",
        f"--out={out}",
        "--in-turn",
    ]


def _anonymous_bytes(pid: int) -> int:
    """Of a process and all its descendants, from Linux's /proc."""
    total = 0
    with suppress(OSError):  # it may end in the meantime
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += _anonymous_bytes(int(child))
    return total


def _bytes_of(path: Path) -> int:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)


def main(
    records: Annotated[int, typer.Option(min=1000, help="Direct rows and sets together.")] = 20_000,
    processes: Annotated[int, typer.Option(min=1, help="That tokenise.")] = 2,
    pool: Annotated[int, typer.Option(min=4, help="Candidates per problem.")] = 6,
    work: Annotated[Path, typer.Option(help="Folder for everything; removed at the end.")] = Path(
        "runs/builder-scale"
    ),
) -> None:
    """Measure the builder."""
    console = Console()
    shutil.rmtree(work, ignore_errors=True)
    student = work / "student"
    student.mkdir(parents=True)
    text = corpus()
    write_student(student, text)
    inputs = write_inputs(work, Cutter.of(text, student), records // 2, pool)
    sets, out = work / "sets.jsonl", work / "hybrid"
    drawn = measure(refine_arguments(inputs, student, sets), sets)
    answer_sets(sets, inputs.refine_targets)
    made = measure([*hybrid_arguments(inputs, student, sets, out), f"--processes={processes}"], out)
    card = json.loads((out / "card.json").read_text(encoding="utf-8"))
    rows = sum(split["rows"] for split in card["splits"].values())
    tokens = sum(split["tokens"] for split in card["splits"].values())
    table = Table(title=f"{records:,} records, {processes} processes")
    for column in ("command", "seconds", "records/s", "peak memory", "written"):
        table.add_column(column, justify="right")
    for name, one, count in (("refine", drawn, records // 2), ("hybrid", made, records)):
        table.add_row(
            name,
            f"{one.seconds:,.0f}",
            f"{count / one.seconds:,.0f}",
            f"{one.peak_bytes / 2**30:.2f} GiB",
            f"{one.written_bytes / 2**30:.2f} GiB",
        )
    console.print(table)
    console.print(
        f"{rows:,} rows, {tokens:,} tokens; inputs {inputs.bytes / 2**30:.2f} GiB; "
        f"{tokens / made.seconds:,.0f} tokens/s"
    )
    console.print(json.dumps(describe_machine()))
    shutil.rmtree(work)


if __name__ == "__main__":
    run_command("builder", lambda: typer.run(main))
