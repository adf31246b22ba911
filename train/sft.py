"""Hybrid SFT: L = L_direct + L_selfR. Each is the mean over its own target tokens of a step.

    python -m train.sft --config run.toml
    torchrun --nproc_per_node 8 -m train.sft --model HUB_ID --data FOLDER --out FOLDER
    python -m train.sft --config run.toml --dry-run
    python -m train.sft --config run.toml --dry-run 8 --gpu H100

The same command resumes an interrupted run, on any number of ranks. Ctrl-C and SIGTERM stop it
after the step that runs, with status 130 or 143; a second one ends it at once. `OUT/model` is the
trained checkpoint, `OUT/report.md` its report card; `--lora` leaves `OUT/adapter` as well, for
peft.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from safetensors import SafetensorError

from gsr_engine.checkpoint.digest import tokenizer_digest, weights_digest
from gsr_engine.checkpoint.files import find_checkpoint, read_json
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.errors import CheckpointError, InvalidRequest
from gsr_engine.model.linear import has_bf16_products
from train import leave_at_once
from train.command import log, run_command
from train.dataset import RowSet, Split
from train.files import check_claim, claim, read_toml
from train.trainer.batches import check_model, check_rows
from train.trainer.checkpoints import restore_config
from train.trainer.config import SftConfig
from train.trainer.dry_run import dry_run
from train.trainer.evaluation import SelfRefEvaluation, read_exercises
from train.trainer.export import export_adapter, export_model
from train.trainer.held_out import HeldOutLosses
from train.trainer.log import RunLog
from train.trainer.loop import Evaluation, Trainer
from train.trainer.model import Trainee, build_model, load_weights, read_model_config
from train.trainer.report import write_report
from train.trainer.stop_signal import SIGNALS
from train.trainer.world import World, joined

_FREE = {
    *("model", "data", "out", "pack", "checkpointing", "compile", "shard", "log_every"),
    *("eval_every", "save_every", "save_minutes", "keep", "selfref", "selfref_k"),
    *("selfref_tokens", "max_skipped", "trackers"),
}
"""Settings that may change when a run is resumed: they name a place, or change weights only by
rounding. The contents of model and data have digests, which may not."""


def train(config: SftConfig) -> None:
    """A whole run: train, export, report.

    Raises:
        InvalidRequest: a setting does not fit the data or the machine.
        CheckpointError: the model or the data cannot be read, or the run's folder belongs to
            another run.
        Interrupted: a signal stopped it; the same command goes on.
        TrainingDiverged: gradients were not finite for too many steps in a row.
    """
    source = find_checkpoint(config.model)
    card = _read_card(config.data, source)
    shape, sets = read_model_config(source), _read_sets(config, source)
    exercises = read_exercises(config.selfref) if config.selfref else []
    with joined() as world:
        config = config.on(world.device)
        mesh = world.mesh(config.shard)
        digest = world.first(lambda: weights_digest(source))
        settings = {**config.as_dict(), "data_card": card, "model_digest": digest}
        claimed = (config.out / "config.json", settings, "another run", _FREE)
        world.first(lambda: _check_out(config.out, claimed))
        _say_settings(config, world)
        run_log = RunLog(config, writes=world.rank == 0)
        trainee = build_model(shape, config, mesh)
        for note in load_weights(trainee, source):
            log.info("sft: %s", note)
        with ExitStack() as stack:
            stack.enter_context(closing(run_log))
            evaluations: list[Evaluation] = []
            if held_out := sets.get("held_out"):
                evaluations.append(HeldOutLosses(held_out, config, trainee, world))
            if exercises:
                selfref = SelfRefEvaluation(exercises, config, source, trainee, world)
                evaluations.append(stack.enter_context(closing(selfref)))
            # A folder belongs to a run that took a step: what fails before leaves nothing.
            own = cache(lambda: world.first(lambda: claim(*claimed)))
            Trainer(trainee, sets["train"], config, world, run_log, evaluations, own).run()
        _export(trainee, config, source, world)
        world.first(lambda: write_report(config.out))
        out = config.out
        log.info("%s: %s, %s", out.name, out / "model", out / "report.md")


def _read_sets(config: SftConfig, source: Path) -> dict[Split, RowSet]:
    """The splits of the data, if a pack holds their rows and the model knows their ids."""
    model = ModelConfig.from_folder(source)
    sets: dict[Split, RowSet] = {"train": RowSet.load(config.data)}
    if (config.data / "held_out").exists():
        sets["held_out"] = RowSet.load(config.data, "held_out")
    for rows in sets.values():
        check_rows(rows, config.pack)
        check_model(rows, model)
    return sets


def _say_settings(config: SftConfig, world: World) -> None:
    log.info("sft: %s", json.dumps(config.as_dict()))
    slow = world.device.type == "cpu" and not has_bf16_products()
    if slow and config.dtype == "bfloat16":
        log.warning("sft: this CPU does not multiply bfloat16; --dtype float32 is 10 times as fast")


def _check_out(out: Path, claimed: tuple[Path, dict[str, Any], str, set[str]]) -> None:
    """Raise what the run would, before hours of work: another run's folder, or none to write to."""
    restore_config(out)
    check_claim(*claimed)
    if not claimed[0].exists() and any((out / "checkpoints").glob("step-*")):
        raise CheckpointError(f"{out} has checkpoints, but no config.json says of which run")
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InvalidRequest("out", f"{out}: nothing can be written to {nearest}")


def _export(trainee: Trainee, config: SftConfig, source: Path, world: World) -> None:
    dtype = getattr(torch, config.dtype)
    writes = world.rank == 0
    folder = config.out / "model"
    extra = [config.data / "gsr.json"]
    try:
        export_model(trainee, folder, source, dtype=dtype, extra=extra, writes=writes)
        if config.lora:
            export_adapter(trainee, config.out / "adapter", config, extra=extra, writes=writes)
    except (OSError, SafetensorError) as error:  # e.g. the disk is full
        raise CheckpointError(
            f"{config.out} cannot be written to: {error}; the training is done, and the same "
            "command goes on with its export"
        ) from None
    world.wait()


def _read_card(data: Path, source: Path) -> str:
    """The digest of a set's card.

    Raises:
        InvalidRequest: the set is not whole, or its rows are ids of another tokenizer.
        CheckpointError: one of its JSON files is damaged.
    """
    for name in ("card.json", "gsr.json"):
        if not (data / name).is_file():
            raise InvalidRequest("data", f"{data} has no {name}; train.build writes it")
    GsrConfig.from_folder(data)
    if read_json(data / "card.json").get("tokenizer_hash") != tokenizer_digest(source):
        raise InvalidRequest("data", f"{data} was built with another tokenizer than {source} has")
    return hashlib.sha256((data / "card.json").read_bytes()).hexdigest()


class DryRun(NamedTuple):
    """What a dry run is asked.

    Attributes:
        ranks: processes of the run; None: what the machine has.
        gpu: kind of GPU to plan for; None: this machine.
        expected: the table [expected] of the file.
    """

    ranks: int | None
    gpu: str | None
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
    first.add_argument("--dry-run", type=int, nargs="?", const=0)
    first.add_argument("--gpu")
    known, rest = first.parse_known_args(arguments)
    values: dict[str, Any] = dict.fromkeys(("model", "data", "out"), tyro.MISSING)
    file = read_toml(known.config) if known.config else {}
    values |= file.get("sft", file)
    flags = (
        "--config FILE.toml: settings. --dry-run [RANKS]: what the run would take on this machine, "
        "or on RANKS GPUs of a kind with --gpu H100 (A100, H200, B200)."
    )
    description = f"{__doc__}\n\n{flags}"
    config = tyro.cli(
        SftConfig, args=rest, default=SftConfig.from_dict(values), description=description
    )
    if known.dry_run is None:
        if known.gpu is not None:
            raise InvalidRequest("gpu", "is for --dry-run")
        return config, None
    if known.dry_run < 0:
        raise InvalidRequest("dry_run", f"must be a number of ranks, got {known.dry_run}")
    return config, DryRun(known.dry_run or None, known.gpu, file.get("expected"))


def main() -> None:
    """The command."""
    config, dry = parse()
    # Whenever no step runs nothing is lost: files appear whole, and the same command goes on.
    for number in SIGNALS:
        signal.signal(number, leave_at_once)
    if dry:
        dry_run(config, *dry, Console())
    else:
        train(config)


if __name__ == "__main__":
    run_command("sft", main)
