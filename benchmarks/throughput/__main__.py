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

`--device cuda` measures on a GPU: this engine, vLLM, SGLang and transformers, as their users run
them: n candidates of one prompt with the prefix cache on, then one request for the refinement. One
engine follows the other, because each takes the GPU's memory. No GPU has run this yet.

`--speculative` is another comparison: this engine with and without lookup decoding, over texts of
natural length; see `benchmarks.throughput.speculative`.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console

from benchmarks.peers.run import PEERS
from benchmarks.throughput.comparison import compare
from benchmarks.throughput.gpu_comparison import compare_on_gpu
from benchmarks.throughput.lookup_comparison import Arithmetic
from benchmarks.throughput.machine_limits import chip
from benchmarks.throughput.ours import RefineWork
from benchmarks.throughput.rounds import Rounds
from benchmarks.throughput.speculative import PUZZLES, compare_lookup, texts_of
from benchmarks.throughput.table import WIDTH, show
from benchmarks.throughput.works import Subject, WorkSize, chosen_dtype, selected, subjects
from gsr_engine.environment import describe_machine
from train.command import run_command

_SHAPES = "0.5b,26m"
_WORK, _NATURAL_WORK = "8x8:128/128/128", "1x4:0/500/500"
_PROBLEMS = 8
_KV_GIB = 4.0


def main(
    shape: Annotated[
        str | None,
        typer.Option(
            help="0.5b or 26m; several with commas; empty for none.", show_default=_SHAPES
        ),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="A checkpoint folder, besides.")] = None,
    work: Annotated[
        str | None,
        typer.Option(
            help="Problems x candidates : tokens of a problem / candidate / refinement; several "
            "with commas. With --speculative 0 tokens of a problem: its own length.",
            show_default=f"{_WORK}; {_NATURAL_WORK} with --speculative",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each engine, in turns.")] = 3,
    repeats: Annotated[
        int, typer.Option(min=0, help="Most repetitions of a run while the machine is busy.")
    ] = 3,
    peers: Annotated[
        str | None,
        typer.Option(
            help=f"Which of them; empty for none. On cuda: {', '.join(PEERS['cuda'])}.",
            show_default=",".join(PEERS["cpu"]),
        ),
    ] = None,
    quantization: Annotated[
        Literal["none", "int8"],
        typer.Option(help="int8: this engine and peers in 8 bits, too, and losses."),
    ] = "none",
    sharing_off: Annotated[
        bool | None,
        typer.Option(help="Also this engine with nothing shared.", show_default="sharing-off"),
    ] = None,
    speculative: Annotated[
        str | None,
        typer.Option(
            help="Instead of peers: this engine with and without lookup decoding over these "
            f"problems, with commas. {PUZZLES} are nano's; JSONL files are for --model.",
            metavar="DATA",
        ),
    ] = None,
    problems: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of each DATA, in all: a multiple of those of --work, which run at once.",
            show_default=str(_PROBLEMS),
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="bfloat16, float32; auto: bfloat16 where the CPU multiplies it.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.")] = None,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="Where all engines compute.")
    ] = "cpu",
    kv_gib: Annotated[
        float | None,
        typer.Option(
            help="Memory for keys and values, each engine; of a GPU each takes its own default.",
            show_default=f"{_KV_GIB} on cpu",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for JSON, tables and logs.")] = Path(
        "runs/throughput"
    ),
) -> None:
    """Measure selfRef@k end to end in this engine and its peers, or with lookup decoding."""
    if threads:
        torch.set_num_threads(threads)
    new_rounds = partial(Rounds, rounds, repeats)
    if speculative is None:
        _refuse("is for --speculative only", problems=problems)
        if device == "cuda":
            _check_gpu(quantization)
            _refuse("is for --device cpu only", kv_gib=kv_gib, sharing_off=sharing_off)
        sizes = [WorkSize.parsed(text) for text in (_WORK if work is None else work).split(",")]
        known = PEERS[device]
        chosen = selected(",".join(known) if peers is None else peers, known, "peers")
        for subject in subjects(_SHAPES if shape is None else shape, model, device):
            for size in sizes:
                losses = quantization != "none"
                task = subject.work(size, dtype, kv_gib or _KV_GIB, losses, device)
                folder = out / re.sub(r"[:/]", "-", f"{subject.name}-{size}")
                folder.mkdir(parents=True, exist_ok=True)
                if device == "cuda":
                    measured = compare_on_gpu(task, chosen, new_rounds(), folder, _tell)
                else:
                    off = sharing_off is not False
                    runs = new_rounds()
                    measured = compare(task, chosen, quantization, off, runs, folder, _tell)
                _keep(measured, subject, size, task, folder)
        return
    on_gpu = device if device == "cuda" else None
    _refuse(
        "is not for --speculative", shape=shape, peers=peers, sharing_off=sharing_off, device=on_gpu
    )
    works = (_NATURAL_WORK if work is None else work).split(",")
    sizes = [WorkSize.parsed(text, natural=True) for text in works]
    count = problems or _PROBLEMS
    if uneven := [size for size in sizes if count % size.problems]:
        raise typer.BadParameter(f"problems: {count} is no multiple of those of {uneven[0]}")
    arithmetics = [Arithmetic(dtype=chosen_dtype(dtype), quantization="none")]
    if quantization != "none":
        own = "float32" if dtype == "auto" else dtype
        arithmetics.append(Arithmetic(dtype=own, quantization=quantization))
    texts = texts_of(speculative, model, count)
    compare_lookup(texts, sizes, arithmetics, new_rounds, kv_gib or _KV_GIB, out, _tell)


def _refuse(why: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise typer.BadParameter(f"{name.replace('_', '-')}: it {why}")


def _check_gpu(quantization: str) -> None:
    """Raise typer.BadParameter if the work cannot be done on a GPU here."""
    if quantization != "none":
        raise typer.BadParameter(f"quantization: {quantization} is for --device cpu only")
    if not torch.cuda.is_available():
        raise typer.BadParameter("device: torch finds no GPU here")


def _tell(line: str) -> None:
    Console(stderr=True).print(f"[dim]{line}[/]")


def _keep(
    measured: dict[str, Any], subject: Subject, size: WorkSize, task: RefineWork, folder: Path
) -> None:
    """Print the tables of a comparison, and write them beside its JSON."""
    names = {"subject": subject.name, "dtype": task.dtype, "words": size.words}
    machine = describe_machine()
    facts = {"chip": chip() if task.device == "cpu" else machine["gpu"], "machine": machine}
    run = {"work": names | asdict(size), **facts, **measured}
    (folder / "throughput.json").write_text(json.dumps(run, indent=2), encoding="utf-8")
    console = Console(record=True, width=WIDTH)
    show(console, run)
    (folder / "throughput.txt").write_text(console.export_text(), encoding="utf-8")


if __name__ == "__main__":
    run_command("throughput", lambda: typer.run(main))
