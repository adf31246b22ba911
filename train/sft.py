"""Hybrid SFT: L = L_direct + L_selfR. Each is the mean over its own target tokens of a step.

    python -m train.sft --config run.toml
    torchrun --nproc_per_node 8 -m train.sft --model HUB_ID --data FOLDER --out FOLDER
    python -m train.sft --config run.toml --dry-run 8

The same command resumes an interrupted run, on any number of ranks. `OUT/model` is the trained
checkpoint, `OUT/report.md` its report card; `--lora` leaves `OUT/adapter` as well, for peft.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from rich.console import Console

from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.errors import InvalidRequest
from train.command import log, run_command
from train.dataset import RowSet, Split
from train.files import claim, read_toml
from train.trainer.batches import check_model
from train.trainer.config import SftConfig
from train.trainer.dry_run import dry_run
from train.trainer.evaluation import SelfRefEvaluation
from train.trainer.export import export_adapter, export_model
from train.trainer.held_out import HeldOutLosses
from train.trainer.log import RunLog
from train.trainer.loop import Evaluation, Trainer
from train.trainer.model import Trainee, build_model, load_weights, read_model_config
from train.trainer.report import write_report
from train.trainer.world import World, joined

_FREE = {
    *("model", "data", "out", "pack", "checkpointing", "compile", "shard", "log_every"),
    *("eval_every", "save_every", "keep", "selfref", "selfref_k", "selfref_tokens"),
    *("max_skipped", "trackers"),
}
"""Settings that may change when a run is resumed: they name a place, or change weights only by
rounding."""


def train(config: SftConfig) -> bool:
    """A whole run: train, export, report; False if a signal interrupted it.

    Raises:
        InvalidRequest: a setting does not fit the data or the machine.
        CheckpointError: the model cannot be read, or the run's folder belongs to another run.
    """
    source = find_checkpoint(config.model)
    _check_tokenizer(config.data, source)
    shape, model = read_model_config(source), ModelConfig.from_folder(source)
    for split in get_args(Split):
        if (config.data / split).exists():
            check_model(RowSet.load(config.data, split), model)
    with joined() as world:
        if world.rank == 0:
            settings = {**config.as_dict(), "data_card": _digest(config.data / "card.json")}
            claim(config.out / "config.json", settings, "another run", _FREE)
            log.info("sft: %s", json.dumps(config.as_dict()))
        world.wait()
        trainee = build_model(shape, config, world.mesh(config.shard))
        for note in load_weights(trainee, source):
            if world.rank == 0:
                log.info("sft: %s", note)
        with ExitStack() as stack:
            run_log = stack.enter_context(closing(RunLog(config, writes=world.rank == 0)))
            evaluations: list[Evaluation] = []
            if (config.data / "held_out").exists():
                held_out = RowSet.load(config.data, "held_out")
                evaluations.append(HeldOutLosses(held_out, config, trainee, world))
            if config.selfref:
                selfref = SelfRefEvaluation(config.selfref, config, source, trainee, world)
                evaluations.append(stack.enter_context(closing(selfref)))
            rows = RowSet.load(config.data)
            finished = Trainer(trainee, rows, config, world, run_log, evaluations).run()
        if finished:
            _export(trainee, config, source, world)
        if finished and world.rank == 0:
            write_report(config.out)
            out = config.out
            log.info("%s: %s, %s", out.name, out / "model", out / "report.md")
    return finished


def _export(trainee: Trainee, config: SftConfig, source: Path, world: World) -> None:
    dtype = getattr(torch, config.dtype)
    writes = world.rank == 0
    folder = config.out / "model"
    extra = [config.data / "gsr.json"]
    export_model(trainee, folder, source, dtype=dtype, extra=extra, writes=writes)
    if config.lora:
        export_adapter(trainee, config.out / "adapter", config, extra=extra, writes=writes)
    world.wait()


def _check_tokenizer(data: Path, source: Path) -> None:
    """Raise InvalidRequest if the rows are token ids of another tokenizer than the model's."""
    if not (data / "card.json").exists():
        raise InvalidRequest("data", f"{data} has no card.json; train.build writes one")
    card = json.loads((data / "card.json").read_text(encoding="utf-8"))
    if card["tokenizer_hash"] != _digest(source / "tokenizer.json"):
        raise InvalidRequest("data", f"{data} was built with another tokenizer than {source} has")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class DryRun(NamedTuple):
    """What a dry run is asked: the number of GPUs, and the table [expected] of the file."""

    gpus: int
    expected: dict[str, Any] | None


def parse(arguments: Sequence[str] | None = None) -> tuple[SftConfig, DryRun | None]:
    """The settings of a run, and the dry run if one is asked for.

    Settings are taken from a TOML file (its table [sft]); flags override them.

    Raises:
        InvalidRequest: a value is out of range, or the file is not TOML.
    """
    import tyro  # noqa: PLC0415  # of the extra "train"; the trainer works without it

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--dry-run", type=int, nargs="?", const=8)
    known, rest = first.parse_known_args(arguments)
    values: dict[str, Any] = dict.fromkeys(("model", "data", "out"), tyro.MISSING)
    file = read_toml(known.config) if known.config else {}
    values |= file.get("sft", file)
    flags = "--config FILE.toml: settings. --dry-run GPUS: what the run would take."
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
    else:
        train(config)


if __name__ == "__main__":
    run_command("sft", main)
