"""What a run would take, before it takes it: parameters, memory, steps, hours.

`python -m train.sft --config FILE.toml --dry-run [GPUS]`. Nothing is loaded: parameters and
activations are counted on the meta device, and where the data are not built yet, the rows that the
recipe expects (its table [expected]) stand for them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, PretrainedConfig, Qwen2Config

from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.errors import CheckpointError, InvalidRequest
from train.flops import PEAKS, Flops
from train.memory import ModelSize
from train.sft_config import Checkpointing, SftConfig, read_toml

SHAPES = Path(__file__).parent / "shapes.toml"
GPUS = {"H100": 80e9, "H200": 141e9}
"""Memory of those that are told of, bytes."""
MFU = 0.4
"""Share of the peak that the hours are told at."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How much there is to learn from: rows, their tokens, the learnt ones among them."""

    count: int
    tokens: int
    target_tokens: int
    known: bool


def dry_run(
    config: SftConfig, gpus: int, expected: dict[str, Any] | None, console: Console
) -> None:
    """Print it.

    Args:
        config: of the run.
        gpus: that would share the work.
        expected: rows, tokens_per_row and targets_per_row, where the data are not built yet.
        console: where to.

    Raises:
        InvalidRequest: the data are not built, and nothing is expected of them.
        CheckpointError: nothing is known of the model.
    """
    shape = model_shape(config.model)
    size = ModelSize.of(shape, config.lora)
    rows = _rows(config.data, expected)
    shards = config.shard or gpus
    console.print(_facts_table(config, gpus, size, rows, shape))
    console.print(_memory_table(config, size, shards))


def model_shape(model: str) -> PretrainedConfig:
    """A model's config: of a folder or the hub, or one of the recipes' shapes.

    Raises:
        CheckpointError: it is neither.
    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(find_checkpoint(model, weights=False))
    except (CheckpointError, OSError, ValueError):
        shapes = read_toml(SHAPES)
        if model not in shapes:
            raise CheckpointError(
                f"{model} is no checkpoint within reach, nor in {SHAPES}"
            ) from None
        return Qwen2Config(**shapes[model])
    return config


def _rows(data: Path, expected: dict[str, Any] | None) -> Rows:
    card = data / "card.json"
    if card.exists():
        split = json.loads(card.read_text(encoding="utf-8"))["splits"]["train"]
        return Rows(split["rows"], split["tokens"], split["target_tokens"], known=True)
    if expected is None:
        raise InvalidRequest("data", f"{data} is not built, and the file has no [expected]")
    count = expected["rows"]
    tokens, targets = expected["tokens_per_row"], expected["targets_per_row"]
    return Rows(count, count * tokens, count * targets, known=False)


def _facts_table(
    config: SftConfig, gpus: int, size: ModelSize, rows: Rows, shape: PretrainedConfig
) -> Table:
    steps_per_epoch = -(-rows.count // config.batch)
    steps = config.steps or round(config.epochs * steps_per_epoch)
    share = steps / steps_per_epoch
    tokens = rows.tokens * share
    flops = Flops.of(shape)
    mean = rows.tokens / rows.count
    # Every row as long as the mean, and plainly causal.
    operations = 6 * (tokens * flops.layers + rows.target_tokens * share * flops.head)
    operations += 3 * flops.pair * tokens * mean / 2
    hours = operations / (MFU * PEAKS["H100"] * gpus) / 3600
    table = Table(title=f"{config.model} on {gpus} GPUs", title_justify="left", show_header=False)
    origin = "of the data's card" if rows.known else "as the recipe expects"
    facts = {
        "parameters": f"{size.parameters:,}",
        "of these trained": f"{size.trained:,}",
        f"rows, {origin}": f"{rows.count:,} of {mean:,.0f} tokens",
        "steps": f"{steps:,} of {config.batch} rows ({share:.2f} epochs)",
        "tokens per step": f"{config.batch * mean:,.0f}",
        "packs per GPU and step": f"{config.batch * mean / config.pack / gpus:.1f}",
        "tokens": f"{tokens:,.0f}",
        f"hours at {MFU:.0%} of {PEAKS['H100'] / 1e12:.0f} TFLOP/s": f"{hours:,.1f}",
    }
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _memory_table(config: SftConfig, size: ModelSize, shards: int) -> Table:
    modes: tuple[Checkpointing, ...] = get_args(Checkpointing)
    table = Table(title=f"GiB on each GPU, packs of {config.pack:,}", title_justify="left")
    table.add_column("")
    for mode in modes:
        table.add_column(
            f"[bold]{mode}[/]" if mode == config.checkpointing else mode, justify="right"
        )
    held = [size.bytes_per_gpu(replace(config, checkpointing=mode), shards) for mode in modes]
    for kind in held[0]:
        table.add_row(kind, *(f"{one[kind] / 2**30:.1f}" for one in held))
    totals = [sum(one.values()) for one in held]
    table.add_row("sum", *(f"{total / 2**30:.1f}" for total in totals), style="bold")
    for name, memory in GPUS.items():
        # A tenth is left for the allocator and for NCCL.
        fits = ["fits" if total < 0.9 * memory else "too large" for total in totals]
        table.add_row(f"{name}, {memory / 1e9:.0f} GB", *fits)
    return table
