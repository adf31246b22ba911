"""python -m benchmarks.serving: what HTTP costs.

The same prompts to the engine in this process and to a server, in turns, the best of three:
tokens/s of 32 requests that do not stream, and the time to the first token. What a server's clients
get of selfRef@k, under load and beside a loop of their own, is `benchmarks.latency`.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.peers.servers import Setting, ours
from benchmarks.serving.overhead import Overhead, measure_overhead
from benchmarks.serving.table import overhead_table
from gsr_engine import Engine
from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.demo.report import NANO
from gsr_engine.environment import describe_machine
from train.command import run_command


def measure_http(setting: Setting, requests: int, tokens: int, looks: int, rounds: int) -> Overhead:
    """What HTTP costs with a model."""
    options: dict[str, Any] = {
        "dtype": setting.dtype,
        "kv_cache_gib": setting.kv_gib,
        "threads": setting.threads,
        "generation_config": "none",  # as of the server
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


def main(
    model: Annotated[
        Path | None, typer.Option(help="A checkpoint folder. [default: nano]", show_default=False)
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Of the check of throughput.")] = 32,
    tokens: Annotated[int, typer.Option(min=1, help="Of each of these.")] = 128,
    looks: Annotated[int, typer.Option(min=1, help="At the time to the first token.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, help="The best counts.")] = 3,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.")] = None,
    kv_gib: Annotated[float, typer.Option(help="Memory for keys and values.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Folder for JSON, table, logs.")] = Path("runs/serving"),
) -> None:
    """Measure what HTTP costs."""
    folder = NANO if model is None else find_checkpoint(model)
    setting = Setting(
        model=folder,
        dtype=dtype,
        threads=threads or torch.get_num_threads(),
        kv_gib=kv_gib,
        out=out,
    )
    out.mkdir(parents=True, exist_ok=True)
    overhead = measure_http(setting, requests, tokens, looks, rounds)
    found: dict[str, Any] = {
        "model": "nano" if model is None else folder.name,
        "dtype": dtype,
        "threads": setting.threads,
        "machine": describe_machine(),
        "overhead": asdict(overhead),
    }
    console = Console(record=True, width=100)
    console.print(overhead_table(overhead))
    console.print(", ".join(f"{key} {value}" for key, value in found["machine"].items()))
    (out / "serving.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (out / "serving.txt").write_text(console.export_text(), encoding="utf-8")


if __name__ == "__main__":
    run_command("serving", lambda: typer.run(main))
