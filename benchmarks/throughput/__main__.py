"""python -m benchmarks.throughput: selfRef@k end to end, beside other engines, in one run.

Fixed lengths, the same prompts and the same dtype for all: random weights of real shapes, or the
checkpoint of `--model` with problems in words. Measured are this engine (linear, branched, and with
all sharing switched off), transformers (`generate` and continuous batching), OpenVINO GenAI,
llama.cpp and vLLM. Each peer has a process of its own, which is stopped while others run. The last
three have an environment of their own, which `python -m benchmarks.peers.install` makes; without
one they are skipped. The peers' refinement prompts are the linear prompts of the candidates that
this engine drew.

Lengths are fixed by `ignore_eos` with random weights, which rarely draw an end token, and by
`min_tokens` = `max_tokens` with a real model, so that no end token is drawn. A candidate with an
end token in its middle is not shown as it is: the branched layout reads it again, and loses its
advantage.

With `--quantization int8` this engine, OpenVINO (its int8 export) and llama.cpp (Q8_0) also run in
their own 8 bits, in the same rounds. Of a real model every engine's loss over the same texts stands
beside (`benchmarks.quantization`), and the best peer whose loss is near fp32's.

All engines run several times, in turns; see `benchmarks.throughput.rounds`.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console

from benchmarks.peers.run import PEERS
from benchmarks.throughput.comparison import compare
from benchmarks.throughput.machine_limits import chip
from benchmarks.throughput.rounds import Rounds
from benchmarks.throughput.table import WIDTH, show
from benchmarks.throughput.works import WorkSize, selected, subjects
from gsr_engine.environment import describe_machine
from train.command import run_command


def main(
    shape: Annotated[
        str, typer.Option(help="0.5b or 26m; several with commas; empty for none.")
    ] = "0.5b,26m",
    model: Annotated[Path | None, typer.Option(help="A checkpoint folder, besides.")] = None,
    work: Annotated[
        str,
        typer.Option(
            help="Problems x candidates : tokens of a problem / candidate / refinement; several "
            "with commas."
        ),
    ] = "8x8:128/128/128",
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each engine, in turns.")] = 3,
    repeats: Annotated[
        int, typer.Option(min=0, help="Most repetitions of a run while the machine is busy.")
    ] = 3,
    peers: Annotated[str, typer.Option(help="Which of them; empty for none.")] = ",".join(PEERS),
    quantization: Annotated[
        Literal["none", "int8"],
        typer.Option(help="int8: this engine and peers in 8 bits, too, and losses."),
    ] = "none",
    sharing_off: Annotated[bool, typer.Option(help="Also this engine with nothing shared.")] = True,
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
    chosen = selected(peers, PEERS, "peers")
    sizes = [WorkSize.parsed(text) for text in work.split(",")]
    if threads:
        torch.set_num_threads(threads)
    stderr = Console(stderr=True)
    for subject in subjects(shape, model):
        for size in sizes:
            folder = out / re.sub(r"[:/]", "-", f"{subject.name}-{size}")
            folder.mkdir(parents=True, exist_ok=True)
            task = subject.work(size, dtype, kv_gib, losses=quantization != "none")
            names = {"subject": subject.name, "dtype": task.dtype, "words": size.words}
            measured = compare(
                task,
                chosen,
                quantization,
                sharing_off,
                Rounds(rounds, repeats),
                folder,
                lambda line: stderr.print(f"[dim]{line}[/]"),
            )
            facts = {"chip": chip(), "machine": describe_machine()}
            run = {"work": names | asdict(size), **facts, **measured}
            (folder / "throughput.json").write_text(json.dumps(run, indent=2), encoding="utf-8")
            console = Console(record=True, width=WIDTH)
            show(console, run)
            (folder / "throughput.txt").write_text(console.export_text(), encoding="utf-8")


if __name__ == "__main__":
    run_command("throughput", lambda: typer.run(main))
