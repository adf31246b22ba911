"""python -m benchmarks.training.throughput: the trainer beside TRL's, on a CPU.

Both train the same random weights in fp32, on the same direct and linear refinement rows of ragged
lengths, with the same rows in every step and the same optimizer. So their losses are the same. The
ways of training take turns, one process per run, for some rounds. Ours runs as
`python -m train.sft`, TRL's in an environment that `python -m benchmarks.peers.install trl` makes.
Padding is not counted among the tokens.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.peers.run import PeerProcess, PeerSkipped
from benchmarks.peers.training_job import TrainingJob, TrainingResult
from benchmarks.random_weights import shape_config, write_checkpoint
from benchmarks.training.throughput_table import show
from benchmarks.training_rows import Kind, RowSizes, random_rows
from gsr_engine.environment import describe_machine
from train.command import run_command
from train.dataset import Example, read_parts, write_part, write_split
from train.files import read_jsonl
from train.rows import Row
from train.trainer.batches import Plan
from train.trainer.config import Checkpointing, SftConfig

_KINDS: tuple[Kind, ...] = ("direct", "linear")
_SIZES = RowSizes(problem=60, summary=60, target=200, spread=0.6, k=4, longest=2000)


class TrainingWork:
    """Rows and settings, written down for both trainers.

    Attributes:
        rows: of all steps, in any order.
        steps: optimizer steps; each row belongs to one step.
    """

    def __init__(self, shape: str, batch: int, steps: int, pack: int, out: Path) -> None:
        self.steps, self._out = steps, out
        self._model = write_checkpoint(shape)
        self.rows = random_rows(
            _KINDS * (batch * steps // 2), _SIZES, shape_config(shape).vocab_size
        )
        self._data = _write_set(out / "data", self.rows, self._model)
        self._config = SftConfig(
            model=str(self._model),
            data=self._data,
            out=out / "run",
            steps=steps,
            batch=batch,
            pack=pack,
            lr=1e-4,
            warmup=0.0,
            final_lr=1.0,
            objective_norm="token",
            dtype="float32",
            log_every=1,
            eval_every=0,
            save_every=0,
        )

    def rows_of_step(self, step: int) -> list[Row]:
        """As the trainer takes them."""
        plan = Plan([row.objective for row in self.rows], self._config.batch, self._config.seed)
        return [self.rows[index] for index in plan.rows(step)]

    def ours(self, checkpointing: Checkpointing) -> TrainingResult:
        """A run of this trainer.

        Raises:
            ChildProcessError: it failed; `<out>/sft.log` says why.
        """
        config = replace(self._config, checkpointing=checkpointing)
        shutil.rmtree(config.out, ignore_errors=True)
        file = self._out / "sft.toml"
        file.write_text(_toml(config), encoding="utf-8")
        said = self._out / "sft.log"
        with said.open("w", encoding="utf-8") as log:
            done = subprocess.run(  # noqa: S603
                [sys.executable, "-m", "train.sft", "--config", str(file)],
                env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise ChildProcessError(f"train.sft ended with status {done.returncode}, see {said}")
        lines = read_jsonl(config.out / "log.jsonl", appended=True)
        return self._result([line.row for line in islice(lines, self.steps)])

    def _result(self, lines: list[dict[str, Any]]) -> TrainingResult:
        """From the log, whose losses are a mean for each objective."""
        losses = []
        for step, line in enumerate(lines):
            total = count = 0.0
            for row in self.rows_of_step(step):
                total += row.num_targets * line[f"loss_{row.objective}"]
                count += row.num_targets
            losses.append(total / count)
        return TrainingResult(
            losses=losses,
            seconds=[line["tokens"] / line["tokens_per_second"] for line in lines],
            tokens=[line["tokens"] for line in lines],
            facts={},
        )

    def theirs(self, micro_batch: int, padding_free: bool, checkpointing: bool) -> TrainingResult:
        """A run of TRL.

        Raises:
            PeerSkipped: it is not installed, or failed.
        """
        # Rows of one forward are about equally long, so there is little padding.
        steps = [sorted(self.rows_of_step(step), key=len) for step in range(self.steps)]
        rows = [row for step in steps for row in step]
        job = TrainingJob(
            model=str(self._model.absolute()),
            threads=torch.get_num_threads(),
            token_ids=[list(row.token_ids) for row in rows],
            target_starts=[row.target_start for row in rows],
            batch=self._config.batch,
            micro_batch=micro_batch,
            padding_free=padding_free,
            lr=self._config.lr,
            beta2=self._config.beta2,
            decay=self._config.decay,
            checkpointing=checkpointing,
        )
        with PeerProcess("trl", job.threads, self._out) as peer:
            return TrainingResult(**peer.ask(job))


def _write_set(folder: Path, rows: list[Row], model: Path) -> Path:
    """A data set as the builder writes it, with the parts that the trainer reads."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    layout = {"direct": "", "refine": "linear"}
    examples = (Example(row, "drawn", layout[row.objective]) for row in rows)  # type: ignore[arg-type]
    write_part(folder / "rows.arrow", examples)
    write_split(folder, "train", read_parts([folder / "rows.arrow"]))
    shutil.copy(model / "gsr.json", folder)
    card = {"tokenizer_hash": sha256((model / "tokenizer.json").read_bytes()).hexdigest()}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def _toml(config: SftConfig) -> str:
    """The settings as TOML; plain values look as in JSON."""
    values = {name: value for name, value in config.as_dict().items() if value is not None}
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def ways_of(work: TrainingWork, micro_batches: list[int]) -> dict[str, Any]:
    """Every way of training by its name, with a function that runs it."""
    ways: dict[str, Any] = {
        f"ours{name}": lambda mode=mode: work.ours(mode)
        for name, mode in (
            ("", "none"),
            (", checkpointing selective", "selective"),
            (", checkpointing full", "full"),
        )
    }
    for size in micro_batches:
        ways[f"TRL, {size} rows padded"] = lambda size=size: work.theirs(size, False, False)
    largest, least = micro_batches[-1], micro_batches[0]
    ways[f"TRL, {largest} rows padding-free"] = lambda: work.theirs(largest, True, False)
    ways[f"TRL, {least} rows padded, checkpointing"] = lambda: work.theirs(least, False, True)
    return ways


def measure(
    work: TrainingWork, micro_batches: list[int], rounds: int, say: Console
) -> dict[str, Any]:
    """Run all ways in turn, `rounds` times: results by name, and the reason of each skipped way."""
    results: dict[str, list[dict[str, Any]]] = {}
    skipped: dict[str, str] = {}
    for number in range(rounds):
        for name, run in ways_of(work, micro_batches).items():
            if name in skipped:
                continue
            try:
                result = run()
            except PeerSkipped as reason:
                skipped[name] = str(reason)
                continue
            results.setdefault(name, []).append(asdict(result))
            rate = f"{result.tokens_per_second:,.0f} tokens/s"
            say.print(f"[dim]round {number + 1}/{rounds}  {name}  {rate}[/]")
    return {"results": results, "skipped": skipped}


def main(
    shape: Annotated[str, typer.Option(help="A shape of benchmarks.random_weights.")] = "26m",
    batch: Annotated[int, typer.Option(min=2, help="Rows of a step; even.")] = 8,
    steps: Annotated[int, typer.Option(min=2, help="Steps of a run; the first is no figure.")] = 6,
    pack: Annotated[int, typer.Option(min=2000, help="Our tokens of a forward.")] = 16_384,
    micro_batches: Annotated[str, typer.Option(help="TRL's rows of a forward.")] = "1,2,4",
    rounds: Annotated[int, typer.Option(min=1, help="Times that everything runs.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for JSON, table and logs.")] = Path(
        "runs/train-throughput"
    ),
) -> None:
    """Measure the tokens/s of training, side by side."""
    if threads:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    work = TrainingWork(shape, batch, steps, pack, out)
    sizes = [int(size) for size in micro_batches.split(",")]
    lengths = list(map(len, work.rows))
    run = {
        "work": {
            "shape": shape,
            "batch": batch,
            "steps": steps,
            "pack": pack,
            "rows": len(lengths),
            "tokens": sum(lengths),
            "targets": sum(row.num_targets for row in work.rows),
            "shortest": min(lengths),
            "longest": max(lengths),
        },
        "machine": describe_machine(),
        **measure(work, sizes, rounds, Console(stderr=True)),
    }
    (out / "trl.json").write_text(json.dumps(run, indent=1), encoding="utf-8")
    console = Console(record=True, width=100)
    show(console, run)
    (out / "trl.txt").write_text(console.export_text(), encoding="utf-8")


if __name__ == "__main__":
    run_command("throughput", lambda: typer.run(main))
