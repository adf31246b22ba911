"""What a run would take, before it starts: parameters, memory, disk, steps, hours.

`python -m train.sft --config FILE.toml --dry-run [RANKS] [--gpu H100]`. It speaks of this machine,
or of some GPUs of a kind. No weights are loaded. If the data are not built yet, the rows that the
recipe expects (its table [expected]) are used instead.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import PretrainedConfig, Qwen2Config

from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.errors import CheckpointError, InvalidRequest
from train.dataset import RowSet
from train.files import read_toml
from train.trainer.batches import Plan, check_rows, pack
from train.trainer.config import Checkpointing, SftConfig
from train.trainer.flops import Flops
from train.trainer.machine import MEMORY, Machine, planned_machine, this_machine
from train.trainer.model import transformers_config
from train.trainer.model_size import ModelSize

SHAPES = Path(__file__).parent / "shapes.toml"
MFU = 0.4
"""Share of the peak that the hours assume."""
_PACKED_STEPS = 32
"""Steps whose rows are packed, to see how full the packs are."""


@dataclass(frozen=True, slots=True)
class Workload:
    """How much there is to learn from, and what a rank computes at once.

    Attributes:
        count: rows.
        tokens, targets: of all rows; of those, the tokens that are learnt.
        pairs: pairs of tokens that see one another, as if every row were causal.
        packs: of a rank in a step, on average.
        longest: tokens of the largest pack, with padding.
        longest_targets: most tokens of a pack that are learnt.
        origin: what the figures are of.
    """

    count: int
    tokens: int
    targets: int
    pairs: float
    packs: float
    longest: int
    longest_targets: int
    origin: str


def dry_run(
    config: SftConfig,
    ranks: int | None,
    gpu: str | None,
    expected: dict[str, Any] | None,
    console: Console,
) -> None:
    """Print what the run would take, as two tables.

    Args:
        config: settings of the run.
        ranks: how many processes would share the work; None takes what the machine has.
        gpu: kind of GPU to plan for; None takes this machine.
        expected: rows, tokens_per_row and targets_per_row, used if the data are not built yet.
        console: where the tables go.

    Raises:
        InvalidRequest: the data are not built, and `expected` is None; the GPU is not known.
        CheckpointError: the model's shape is not known.
    """
    shape = model_shape(config.model)
    if gpu is None:
        cuda = torch.cuda.is_available()
        config = config.on(torch.device("cuda" if cuda else "cpu"))
        machine = this_machine(config, ranks)
    else:
        config = config.on(torch.device("cuda"))
        machine = planned_machine(gpu, ranks or 8)
    size = ModelSize.of(shape, config.lora, getattr(torch, config.dtype))
    load = _workload(config, machine, expected)
    console.print(_facts_table(config, machine, size, load, shape))
    console.print(_memory_table(config, machine, size, load))


def model_shape(model: str) -> PretrainedConfig:
    """A model's config: from a folder or the hub, or from the shapes of the recipes' models.

    Raises:
        CheckpointError: the model is in none of them, or its config.json is broken.
        UnsupportedModel: the trainer does not reproduce the model.
    """
    try:
        folder = find_checkpoint(model, weights=False)
    except CheckpointError:
        shapes = read_toml(SHAPES)
        if model not in shapes:
            raise CheckpointError(
                f"{model} is no checkpoint within reach, nor in {SHAPES}"
            ) from None
        return Qwen2Config(**shapes[model])
    return transformers_config(folder)[0]


def _workload(config: SftConfig, machine: Machine, expected: dict[str, Any] | None) -> Workload:
    if (config.data / "train").exists():
        return _of_rows(RowSet.load(config.data), config, machine)
    if expected is None:
        raise InvalidRequest("data", f"{config.data} is not built, and the file has no [expected]")
    count = expected["rows"]
    tokens, targets = expected["tokens_per_row"], expected["targets_per_row"]
    return Workload(
        count=count,
        tokens=count * tokens,
        targets=count * targets,
        pairs=count * tokens**2 / 2,
        packs=max(1.0, config.batch * tokens / config.pack / machine.ranks),
        longest=config.pack,
        longest_targets=config.pack,
        origin="as the recipe expects",
    )


def _of_rows(rows: RowSet, config: SftConfig, machine: Machine) -> Workload:
    """Of rows that are built, packed as the first steps will pack them."""
    check_rows(rows, config.pack)
    plan = Plan(rows.objectives, config.batch, config.seed)
    packs: list[tuple[int, int]] = []
    steps = min(plan.steps_per_epoch, _PACKED_STEPS)
    for step in range(steps):
        chosen = np.asarray(plan.rows(step))
        lengths, targets = rows.lengths[chosen], rows.num_targets[chosen]
        for one in pack(lengths.tolist(), config.pack, machine.ranks):
            packs.append((int(lengths[one].sum()), int(targets[one].sum())))
    lengths_of, targets_of = zip(*packs, strict=True)
    return Workload(
        count=len(rows),
        tokens=int(rows.lengths.sum()),
        targets=int(rows.num_targets.sum()),
        pairs=float((rows.lengths.astype(float) * (rows.lengths + 1) / 2).sum()),
        packs=len(packs) / steps / machine.ranks,
        longest=max(lengths_of) if machine.device == "cpu" else config.pack,
        longest_targets=max(targets_of),
        origin="of the data",
    )


def _facts_table(
    config: SftConfig, machine: Machine, size: ModelSize, load: Workload, shape: PretrainedConfig
) -> Table:
    steps_per_epoch = -(-load.count // config.batch)
    steps = config.steps or max(1, round(config.epochs * steps_per_epoch))
    share = steps / steps_per_epoch
    mean = load.tokens / load.count
    flops = Flops.of(shape)
    operations = 6.0 * (load.tokens * flops.layers + load.targets * flops.head)
    operations += 3 * flops.pair * load.pairs
    seconds = share * operations / (MFU * machine.peak * machine.ranks)
    fill = min(config.batch, load.count) * mean / (load.packs * machine.ranks * config.pack)
    rate = f"{machine.peak / 1e12:.3g} TFLOP/s{', measured' if machine.measured else ''}"
    facts = {
        "parameters": f"{size.parameters:,}",
        "of these trained": f"{size.trained:,}",
        f"rows, {load.origin}": f"{load.count:,} of {mean:,.0f} tokens",
        "steps": f"{steps:,} of {min(config.batch, load.count)} rows ({share:.2f} epochs)",
        "tokens per step": f"{min(config.batch, load.count) * mean:,.0f}",
        "packs per rank and step": f"{load.packs:.1f}, each {fill:.0%} of {config.pack:,} tokens",
        "tokens": f"{load.tokens * share:,.0f}",
        f"time at {MFU:.0%} of {rate}": _duration(seconds),
        **_disk(config, machine, size),
    }
    table = Table(title=_title(config, machine), title_justify="left", show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _title(config: SftConfig, machine: Machine) -> str:
    ranks = f"{machine.ranks} {'processes' if machine.ranks > 1 else 'process'}"
    on = (
        f"this machine, {machine.name}" if machine.here else f"{machine.ranks} GPUs, {machine.name}"
    )
    return f"{config.model} on {on}{f', {ranks}' if machine.here else ''}, {config.dtype}"


def _duration(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _disk(config: SftConfig, machine: Machine, size: ModelSize) -> dict[str, str]:
    """Room for checkpoints, of which one more than kept is there while it is written."""
    one = size.checkpoint_bytes
    exported = size.parameters * getattr(torch, config.dtype).itemsize
    every = [f"{config.save_every} steps"] if config.save_every else []
    every += [f"{config.save_minutes:g} minutes"] if config.save_minutes else []
    kept = f"{_gib(one)} each, {_gib(one * (config.keep + 1))} for {config.keep} and a new one"
    facts = {
        f"disk of checkpoints, every {' and every '.join(every) or 'run'}": kept,
        "disk of the trained model": _gib(exported),
    }
    if machine.here:
        nearest = next(folder for folder in config.out.absolute().parents if folder.exists())
        facts["free there"] = _gib(shutil.disk_usage(nearest).free)
    return facts


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB"


def _memory_table(config: SftConfig, machine: Machine, size: ModelSize, load: Workload) -> Table:
    modes: tuple[Checkpointing, ...] = get_args(Checkpointing)
    title = f"GiB of each rank, packs of up to {load.longest:,} tokens"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for mode in modes:
        table.add_column(
            f"[bold]{mode}[/]" if mode == config.checkpointing else mode, justify="right"
        )
    shards = config.shard or machine.ranks
    held = [
        size.bytes_per_rank(
            replace(config, checkpointing=mode), shards, load.longest, load.longest_targets
        )
        for mode in modes
    ]
    if machine.device == "cpu":
        copy = size.checkpoint_bytes / shards
        held = [{**one, "a checkpoint's copy while it is written": copy} for one in held]
    for kind in held[0]:
        table.add_row(kind, *(f"{one[kind] / 2**30:.1f}" for one in held))
    totals = [sum(one.values()) for one in held]
    table.add_row("sum", *(f"{total / 2**30:.1f}" for total in totals), style="bold")
    for name, memory in _memories(machine).items():
        # A tenth stays free for the allocator and for communication.
        fits = ["fits" if total < 0.9 * memory else "too large" for total in totals]
        table.add_row(f"{name}, {memory / 2**30:,.0f} GiB", *fits)
    return table


def _memories(machine: Machine) -> dict[str, float]:
    if machine.here:
        return {"free here, for each rank" if machine.device == "cpu" else "memory": machine.memory}
    return MEMORY
