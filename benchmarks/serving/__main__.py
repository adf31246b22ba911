"""python -m benchmarks.serving: selfRef@4 as one request beside a client's own loop; HTTP's cost.

`arrivals`: problems arrive at random (Poisson) at four rates, which are shares of what the client's
loop gets from our server when all come at once. A method is one request for selfRef@k, or a client
that asks for n = k candidates and then for a refinement of them, in the same words. vLLM on the CPU
does the second, where `python -m benchmarks.peers.install vllm` made an environment for it. Each
method and rate has a fresh server in a process of its own, the same moments and the same problems,
and answers of fixed lengths.

`overhead`: the same prompts to the engine in this process and to a server, in turns, the best of
three: tokens/s of 32 requests that do not stream, and the time to the first token.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.peers.run import PeerSkipped
from benchmarks.serving.arrivals import Cell, offer
from benchmarks.serving.methods import Method, Work, methods_of
from benchmarks.serving.overhead import Overhead, measure_overhead
from benchmarks.serving.servers import Setting, ours, vllm
from benchmarks.serving.table import arrivals_table, overhead_table, plot_arrivals
from gsr_engine import Engine, InvalidRequest
from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.environment import describe_machine
from train.command import run_command

PARTS = ("arrivals", "overhead")
SHARES = (0.25, 0.5, 0.75, 1.0)
"""The rates, as shares of what the client's loop gets at most."""
_MODEL_LEN = 2048
"""Longest context of a peer: every work here is shorter."""


def measure_arrivals(
    setting: Setting, work: Work, problems: Sequence[str], note: Any
) -> list[Cell]:
    """Every method at four rates; a server that is not installed is named and left out."""
    own, loop = methods_of(setting.model, work)
    here = partial(ours, setting)
    capacity = offer(here, "two requests", loop, problems, 0.0).answers_per_second
    note(f"the client's loop gets {capacity:.2f} answers/s at most")
    every: list[Method] = [*own, loop]
    subjects: list[tuple[Any, str, Method]] = [(here, one.name, one) for one in every]
    there = partial(vllm, setting, _MODEL_LEN)
    cells = []
    for share in SHARES:
        for start, name, method in [*subjects, (there, "two requests, vLLM", loop)]:
            try:
                cells.append(offer(start, name, method, problems, share * capacity))
            except PeerSkipped as skipped:
                note(f"{name}: {skipped}")
                continue
            cell = cells[-1]
            note(f"{name}, {cell.rate:.2f}/s: p50 {cell.percentile(50):.2f} s")
    return cells


def measure_http(setting: Setting, requests: int, tokens: int, looks: int, rounds: int) -> Overhead:
    """What HTTP costs with a model."""
    options: dict[str, Any] = {
        "dtype": setting.dtype,
        "kv_cache_gib": setting.kv_gib,
        "threads": setting.threads,
    }
    with (
        ours(setting) as server,
        Engine.from_pretrained(setting.model, **options) as engine,
    ):
        return asyncio.run(
            measure_overhead(
                engine, server, requests=requests, tokens=tokens, looks=looks, rounds=rounds
            )
        )


def _chosen(only: str) -> list[str]:
    chosen = only.split(",")
    if unknown := [part for part in chosen if part not in PARTS]:
        raise InvalidRequest("only", f"must be some of {', '.join(PARTS)}, got {unknown[0]!r}")
    return chosen


def main(
    model: Annotated[
        Path | None, typer.Option(help="A checkpoint folder. [default: nano]", show_default=False)
    ] = None,
    only: Annotated[str, typer.Option(help="arrivals, overhead, or both.")] = ",".join(PARTS),
    count: Annotated[int, typer.Option(min=2, help="Problems that arrive at each rate.")] = 60,
    candidate_tokens: Annotated[int, typer.Option(min=1, help="Of each of 4 candidates.")] = 128,
    refine_tokens: Annotated[int, typer.Option(min=1, help="Of a refinement.")] = 128,
    requests: Annotated[int, typer.Option(min=1, help="Of the check of throughput.")] = 32,
    tokens: Annotated[int, typer.Option(min=1, help="Of each of these.")] = 128,
    looks: Annotated[int, typer.Option(min=1, help="At the time to the first token.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, help="The best counts.")] = 3,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.")] = None,
    kv_gib: Annotated[float, typer.Option(help="Memory for keys and values.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Folder for JSON, tables, picture, logs.")] = Path(
        "runs/serving"
    ),
) -> None:
    """Measure selfRef@4 over HTTP, and what HTTP costs."""
    chosen = _chosen(only)
    folder = NANO if model is None else find_checkpoint(model)
    name = "nano" if model is None else folder.name
    setting = Setting(
        model=folder,
        dtype=dtype,
        threads=threads or torch.get_num_threads(),
        kv_gib=kv_gib,
        out=out,
    )
    out.mkdir(parents=True, exist_ok=True)
    console, stderr = Console(record=True, width=100), Console(stderr=True)
    found: dict[str, Any] = {"model": name, "dtype": dtype, "threads": setting.threads}
    found["machine"] = describe_machine()
    if "arrivals" in chosen:
        work = Work(candidate_tokens=candidate_tokens, refine_tokens=refine_tokens)
        problems = [one.problem for one in sample_puzzles("test", 0, count + 1)]
        cells = measure_arrivals(setting, work, problems, stderr.print)
        found |= {"work": asdict(work), "arrivals": [asdict(cell) for cell in cells]}
        console.print(arrivals_table(cells))
        title = f"selfRef@{work.k} of {name}: candidates of {candidate_tokens} tokens, "
        plot_arrivals(cells, f"{title}refinements of {refine_tokens}", out / "serving.png")
    if "overhead" in chosen:
        overhead = measure_http(setting, requests, tokens, looks, rounds)
        found["overhead"] = asdict(overhead)
        console.print(overhead_table(overhead))
    console.print(", ".join(f"{key} {value}" for key, value in found["machine"].items()))
    (out / "serving.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (out / "serving.txt").write_text(console.export_text(), encoding="utf-8")


if __name__ == "__main__":
    run_command("serving", lambda: typer.run(main))
