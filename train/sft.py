"""Hybrid SFT: L = L_direct + L_selfR, each the mean over its own target tokens of a step.

    python -m train.sft --config run.toml
    torchrun --nproc_per_node 8 -m train.sft --model HUB_ID --data FOLDER --out FOLDER
    python -m train.sft --config run.toml --dry-run 8

The same command goes on where an interrupted run was, on any number of ranks. `OUT/model` is the
trained checkpoint, `OUT/report.md` its report card.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.errors import InvalidRequest
from train.command import run_command
from train.dataset import RowSet
from train.files import claim, read_toml
from train.trainer.config import SftConfig
from train.trainer.dry_run import dry_run
from train.trainer.evaluation import SelfRefEvaluation
from train.trainer.export import export_model
from train.trainer.log import RunLog
from train.trainer.loop import Say, Trainer
from train.trainer.model import Trainee, build_model, load_weights, read_model_config
from train.trainer.report import write_report
from train.trainer.world import World, joined

_FREE = {
    *("model", "data", "out", "pack", "checkpointing", "compile", "shard", "log_every"),
    *("eval_every", "save_every", "keep", "selfref", "selfref_k", "selfref_tokens"),
    *("max_skipped", "trackers"),
}
"""Settings that an interrupted run may go on with otherwise: they change no weight but by rounding,
or name a place."""


def train(config: SftConfig, say: Say = print) -> bool:
    """A whole run: train, export, report; False where a signal interrupted it.

    Raises:
        InvalidRequest: a setting does not fit the data or the machine.
        CheckpointError: the model cannot be read, or the run's folder belongs to another run.
    """
    source = find_checkpoint(config.model)
    _check_tokenizer(config.data, source)
    with joined() as world:
        if world.rank == 0:
            settings = {**config.as_dict(), "data_card": _digest(config.data / "card.json")}
            claim(config.out / "config.json", settings, "another run", _FREE)
            say(f"sft: {json.dumps(config.as_dict())}")
        world.wait()
        held_out = config.data / "held_out"
        trainee = build_model(read_model_config(source), config, world.mesh(config.shard))
        load_weights(trainee, source)
        log = RunLog(config, writes=world.rank == 0)
        measure = None
        if config.selfref:
            measure = SelfRefEvaluation(config.selfref, config, source, trainee, world)
        trainer = Trainer(
            trainee,
            RowSet.load(config.data),
            RowSet.load(config.data, "held_out") if held_out.exists() else None,
            config,
            world,
            log,
            measure,
            say,
        )
        finished = trainer.run()
        log.close()
        if measure is not None:
            measure.close()
        if finished:
            _export(trainee, config, source, world)
        if finished and world.rank == 0:
            write_report(config.out)
            say(f"{config.out.name}: {config.out / 'model'}, {config.out / 'report.md'}")
    return finished


def _export(trainee: Trainee, config: SftConfig, source: Path, world: World) -> None:
    dtype = getattr(torch, config.dtype)
    writes = world.rank == 0
    folder = config.out / "model"
    extra = [config.data / "gsr.json"]
    export_model(trainee, folder, source, dtype=dtype, extra=extra, writes=writes)
    world.wait()


def _check_tokenizer(data: Path, source: Path) -> None:
    """Rows are token ids: they mean nothing to a model with another tokenizer."""
    if not (data / "card.json").exists():
        raise InvalidRequest("data", f"{data} has no card.json; train.build writes one")
    card = json.loads((data / "card.json").read_text(encoding="utf-8"))
    if card["tokenizer_hash"] != _digest(source / "tokenizer.json"):
        raise InvalidRequest("data", f"{data} was built with another tokenizer than {source} has")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class DryRun(NamedTuple):
    """What is asked of a dry run."""

    gpus: int
    expected: dict[str, Any] | None


def parse(arguments: Sequence[str] | None = None) -> tuple[SftConfig, DryRun | None]:
    """Settings from flags over those of a TOML file (its table [sft]); and a dry run asked for.

    Raises:
        InvalidRequest: a value is out of range, or the file is none.
    """
    import tyro  # noqa: PLC0415  # of the extra "train"; the trainer works without

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--dry-run", type=int, nargs="?", const=8)
    known, rest = first.parse_known_args(arguments)
    values: dict[str, Any] = dict.fromkeys(("model", "data", "out"), tyro.MISSING)
    file = read_toml(known.config) if known.config else {}
    values |= file.get("sft", file)
    flags = "--config FILE.toml: settings. --dry-run GPUS: what it would take."
    description = f"{__doc__}\n\n{flags}"
    config = tyro.cli(
        SftConfig, args=rest, default=SftConfig.from_dict(values), description=description
    )
    return config, known.dry_run and DryRun(known.dry_run, file.get("expected"))


def main() -> None:
    """The command."""
    config, dry = parse()
    if dry:
        dry_run(config, dry.gpus, dry.expected, Console())
    elif not train(config, partial(print, flush=True)):
        raise SystemExit(0)


if __name__ == "__main__":
    run_command("sft", main)
