"""python -m benchmarks.throughput: selfRef@k end to end, beside other engines, in one run.

Random weights of real shapes, fixed lengths, the same prompts and the same dtype for all. Measured
are this engine (linear, branched, and with all sharing switched off), transformers (`generate` and
continuous batching, in this process), OpenVINO GenAI and vLLM. The latter two run in environments
that `python -m benchmarks.peers.install` makes; without one they are skipped. The peers' refinement
prompts are the linear prompts of the candidates that this engine drew.

Lengths are fixed by `ignore_eos`, which is right with random weights alone: they rarely draw an end
token. On a real model give `min_tokens` = `max_tokens` instead, so that no end token is drawn. A
candidate with an end token in its middle is not shown as it is: the branched layout reads it again,
and loses its advantage.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.peers.run import PEERS, PeerSkipped, run_peer
from benchmarks.random_weights import SHAPES, random_problems, write_checkpoint
from benchmarks.throughput.ours import RefineWork, run_ours
from benchmarks.throughput.table import show
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.environment import describe_machine
from gsr_engine.model.linear import compute_dtype
from gsr_engine.model.weights import load_decoder
from gsr_engine.speed.machine_limits import copy_bandwidth, measure_products
from train.command import run_command


def limits_of(work: RefineWork) -> dict[str, Any]:
    """The machine's limits at the batch sizes of the work."""
    decoder = load_decoder(
        work.model, ModelConfig.from_folder(work.model), getattr(torch, work.dtype)
    )
    problems = len(work.problems)
    sizes = sorted({1, work.k, problems, problems * work.k})
    rows = [asdict(products) for products in measure_products(decoder, sizes)]
    return {"copy_gb": copy_bandwidth(), "products": rows}


def measure(work: RefineWork, peers: list[str], out: Path, console: Console) -> dict[str, Any]:
    """Measure the limits and one engine after the other; a skipped peer has its reason."""
    console.print("[dim]the machine[/]")
    limits = limits_of(work)
    console.print("[dim]this engine[/]")
    job, ours = run_ours(work)
    results, skipped = {name: asdict(result) for name, result in ours.items()}, {}
    for name in peers:
        console.print(f"[dim]{name}[/]")
        try:
            results[name] = asdict(run_peer(name, job, out))
        except PeerSkipped as reason:
            skipped[name] = str(reason)
    return {"limits": limits, "results": results, "skipped": skipped}


def _selected(names: str, known: tuple[str, ...], option: str) -> list[str]:
    chosen = [name for name in names.split(",") if name]
    if unknown := [name for name in chosen if name not in known]:
        raise typer.BadParameter(f"{option}: {unknown[0]!r} is none of {', '.join(known)}")
    return chosen


def main(
    shape: Annotated[str, typer.Option(help="0.5b or 26m; several with commas.")] = "0.5b,26m",
    problems: Annotated[int, typer.Option(min=1, help="Problems.")] = 8,
    k: Annotated[int, typer.Option(min=2, help="Candidates per problem.")] = 8,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a problem.")] = 128,
    candidate: Annotated[int, typer.Option(min=2, help="Tokens of a candidate.")] = 128,
    refine: Annotated[int, typer.Option(min=2, help="Tokens of a refinement.")] = 128,
    peers: Annotated[str, typer.Option(help="Which of them; empty for none.")] = ",".join(PEERS),
    dtype: Annotated[
        str, typer.Option(help="bfloat16, float32; auto: bfloat16 where the CPU multiplies it.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.")] = None,
    kv_gib: Annotated[float, typer.Option(help="Memory for keys and values, each engine.")] = 4.0,
    out: Annotated[Path, typer.Option(help="Folder for JSON, tables and logs.")] = Path(
        "runs/throughput"
    ),
) -> None:
    """Measure selfRef@k end to end in this engine and its peers."""
    chosen = _selected(peers, PEERS, "peers")
    if threads:
        torch.set_num_threads(threads)
    auto = str(compute_dtype(torch.bfloat16)).removeprefix("torch.")
    console, progress = Console(record=True, width=100), Console(stderr=True)
    for name in _selected(shape, tuple(SHAPES), "shape"):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        work = RefineWork(
            model=write_checkpoint(name),
            problems=random_problems(problems, prompt),
            k=k,
            candidate_tokens=candidate,
            refine_tokens=refine,
            dtype=auto if dtype == "auto" else dtype,
            threads=torch.get_num_threads(),
            kv_gib=kv_gib,
        )
        run = {
            "work": {
                "shape": name,
                "dtype": work.dtype,
                "problems": problems,
                "k": k,
                "prompt": prompt,
                "candidate": candidate,
                "refine": refine,
            },
            "machine": describe_machine(),
            **measure(work, chosen, folder, progress),
        }
        (folder / "throughput.json").write_text(json.dumps(run, indent=2), encoding="utf-8")
        show(console, run)
        (folder / "throughput.txt").write_text(console.export_text(), encoding="utf-8")


if __name__ == "__main__":
    run_command("throughput", lambda: typer.run(main))
