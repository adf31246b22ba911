"""python -m benchmarks.conversations: what a chat costs, turn by turn, and token by token.

Each call's prompt is everything said so far, as token ids. Compared are this engine, the same
without prefix cache (some calls only: its cost is quadratic), and transformers with a cache that
the caller keeps. All run in fp32 and say the same tokens, greedy, each call in turn. Of several
runs the least time of each call counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.conversations.comparison import Outcome, Subject, best_of, hold
from benchmarks.conversations.script import chat, token_by_token
from benchmarks.conversations.table import show
from benchmarks.random_weights import SHAPES, write_checkpoint
from gsr_engine import InvalidRequest
from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.demo.report import NANO
from gsr_engine.environment import describe_machine
from train.command import run_command
from train.progress import tracked

WORKS = ("chat", "tokens")
SCRIPTS = {
    # nano's context is 2048 tokens: the first prompt of 32 leaves room for 2,000 calls.
    "nano": {"chat": chat(20, 50, 50), "tokens": token_by_token(2000)},
    "26m": {"chat": chat(50, 100, 100), "tokens": token_by_token(2000)},
}
OTHER_SCRIPTS = {"chat": chat(40, 100, 100), "tokens": token_by_token(300)}
"""For a folder of the caller's, and for other shapes of random weights."""


def _write(file: Path, machine: dict[str, str], runs: int, outcomes: Sequence[Outcome]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "runs": runs, "outcomes": [asdict(one) for one in outcomes]}
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _selected(field: str, names: str, known: tuple[str, ...]) -> list[str]:
    chosen = [name for name in names.split(",") if name]
    if unknown := [name for name in chosen if name not in known]:
        raise InvalidRequest(field, f"must be some of {', '.join(known)}, got {unknown[0]!r}")
    return chosen


def main(
    subjects: Annotated[
        str, typer.Option(help="nano, or shapes of random weights; empty for none.")
    ] = "nano,26m",
    model: Annotated[Path | None, typer.Option(help="A checkpoint folder, besides.")] = None,
    work: Annotated[str, typer.Option(help="chat, tokens, or both.")] = ",".join(WORKS),
    calls: Annotated[
        int | None, typer.Option(min=1, help="Turns or tokens; default: by model.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Calls without prefix cache: 1 in N.")] = 25,
    runs: Annotated[int, typer.Option(min=1, help="The least time of each call counts.")] = 3,
    kv_gib: Annotated[float, typer.Option(help="Memory for keys and values, each engine.")] = 1.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all here.")] = None,
) -> None:
    """Measure what conversations cost: by turns of a chat, and token by token."""
    works = _selected("work", work, WORKS)
    jobs = [
        (NANO if name == "nano" else write_checkpoint(name), name, SCRIPTS.get(name, OTHER_SCRIPTS))
        for name in _selected("subjects", subjects, ("nano", *SHAPES))
    ]
    if model is not None:
        jobs.append((find_checkpoint(model), model.name, OTHER_SCRIPTS))
    machine, outcomes = describe_machine(), list[Outcome]()
    for folder, name, usual in jobs:
        subject, bar = Subject(name, folder, kv_gib), partial(tracked, shown=True)
        for one in works:
            script = replace(usual[one], calls=calls or usual[one].calls)
            outcomes.append(best_of([hold(subject, script, every, bar) for _ in range(runs)]))
            if json_file is not None:  # each time: a run that is cut off leaves what it found
                _write(json_file, machine, runs, outcomes)
    console = Console(width=110)
    show(console, outcomes)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))


if __name__ == "__main__":
    run_command("conversations", lambda: typer.run(main))
