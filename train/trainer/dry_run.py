"""What a run would take, before it starts: parameters, memory, steps, hours.

`python -m train.sft --config FILE.toml --dry-run [GPUS]`. Nothing is loaded: parameters and
activations are counted on the meta device. If the data are not built yet, the rows that the recipe
expects (its table [expected]) are used instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console
from rich.table import Table
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.errors import CheckpointError, InvalidRequest
from train.files import read_toml
from train.trainer.config import KV_CACHE_GIB, Checkpointing, SftConfig
from train.trainer.flops import PEAKS, Flops
from train.trainer.lora import add_adapters
from train.trainer.loss import CHUNK
from train.trainer.model import transformers_config

SHAPES = Path(__file__).parent / "shapes.toml"
GPUS = {"H100": 80e9, "H200": 141e9}
"""Memory in bytes of the GPUs that the table shows."""
MFU = 0.4
"""Share of the peak that the hours assume."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How much there is to learn from.

    Attributes:
        count: rows.
        tokens, target_tokens: of all rows; of those, the tokens that are learnt.
        known: whether the figures are of data that are built, not of a recipe's expectation.
    """

    count: int
    tokens: int
    target_tokens: int
    known: bool


def dry_run(
    config: SftConfig, gpus: int, expected: dict[str, Any] | None, console: Console
) -> None:
    """Print what the run would take, as two tables.

    Args:
        config: settings of the run.
        gpus: how many would share the work.
        expected: rows, tokens_per_row and targets_per_row, used if the data are not built yet.
        console: where the tables go.

    Raises:
        InvalidRequest: the data are not built, and `expected` is None.
        CheckpointError: the model's shape is not known.
    """
    shape = model_shape(config.model)
    size = ModelSize.of(shape, config.lora)
    rows = _rows(config.data, expected)
    shards = config.shard or gpus
    console.print(_facts_table(config, gpus, size, rows, shape))
    console.print(_memory_table(config, size, shards))


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
    # As if every row were causal and as long as the mean.
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
        # A tenth stays free for the allocator and for NCCL.
        fits = ["fits" if total < 0.9 * memory else "too large" for total in totals]
        table.add_row(f"{name}, {memory / 1e9:.0f} GB", *fits)
    return table


_COUNTED = "gsr_counted"


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Parameters, and bytes of activations.

    Attributes:
        parameters: all parameters.
        trained: parameters that have gradients.
        layer: parameters of one layer.
        root: parameters of embedding, last norm and head.
        layers: number of layers.
        saved: bytes per token that the backward of one layer needs, by checkpointing.
        again: bytes per token that one layer holds while it is recomputed.
    """

    parameters: int
    trained: int
    layer: int
    root: int
    layers: int
    saved: dict[Checkpointing, float]
    again: float

    @classmethod
    def of(cls, model_config: PretrainedConfig, lora: int = 0) -> ModelSize:
        """Count on the real layers of transformers, without any values."""
        with torch.device("meta"):
            hf = AutoModelForCausalLM.from_config(
                model_config, dtype=torch.bfloat16, attn_implementation=_COUNTED
            )
        parameters, layer = _count(hf), _count(hf.model.layers[0])
        layers = len(hf.model.layers)
        if lora:
            add_adapters(hf, lora)
        whole = _saved_bytes(hf)
        return cls(
            parameters=parameters,
            trained=sum(p.numel() for p in hf.parameters() if p.requires_grad),
            layer=layer,
            root=parameters - layers * layer,
            layers=layers,
            saved={
                "none": whole,
                "selective": _products(model_config),
                "full": 2.0 * model_config.hidden_size,
            },
            again=whole,
        )

    def bytes_per_gpu(self, config: SftConfig, shards: int) -> dict[str, float]:
        """Bytes held when most is held, at the beginning of the backward, by kind.

        Args:
            config: settings of the run.
            shards: GPUs that share one copy of the state.
        """
        logits = 10.0 * CHUNK  # bf16, fp32, and their gradients
        again = self.again if config.checkpointing != "none" else 0.0
        kept = self.layers * self.saved[config.checkpointing]
        reduced = 0.0 if config.lora else 6.0  # adapters are too small to count
        return {
            "parameters, fp32, sharded": 4 * self.parameters / shards,
            "gradients, fp32, sharded": 4 * self.trained / shards,
            "AdamW's two moments, fp32, sharded": 8 * self.trained / shards,
            "two layers gathered, bf16": 4.0 * self.layer,
            "a layer's gradients, bf16, and the copy that is reduced, fp32": reduced * self.layer,
            "embedding and head gathered, bf16": 2.0 * self.root,
            "theirs, bf16, and the copy that is reduced, fp32": reduced * self.root,
            "activations kept": config.pack * kept,
            "one layer computed again": config.pack * again,
            "a chunk of logits": logits,
            "the evaluation's engine, first GPU": self._engine_bytes(config),
        }

    def _engine_bytes(self, config: SftConfig) -> float:
        """Bytes of weights and KV of the engine that measures selfRef@k between steps."""
        return 2.0 * self.parameters + KV_CACHE_GIB * 2**30 if config.selfref else 0.0


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _products(config: PretrainedConfig) -> float:
    """Bytes per token of a layer's input, its products and its attention, all in bf16."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    products: int = 3 * config.hidden_size + 2 * config.intermediate_size
    attention: int = (2 * heads + 2 * kv_heads) * head_dim
    log_sum_exp: float = 4.0 * heads  # fp32
    return 2.0 * (products + attention) + log_sum_exp


class _CountedAttention(torch.autograd.Function):
    """Keeps for the backward what FlexAttention keeps: inputs, output and log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        out = torch.empty_like(query)
        lse = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, lse)
        return out


_attend: Callable[..., torch.Tensor] = _CountedAttention.apply


def _counted_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    dropout: float,
    scaling: float,
    sliding_window: int | None = None,
    position_ids: Any = None,
    use_cache: bool = False,
) -> tuple[Any, None]:
    """In the form that transformers calls; the keywords do not change what is kept."""
    return _attend(query, key, value).transpose(1, 2), None


AttentionInterface.register(_COUNTED, _counted_attention)


def _saved_bytes(hf: PreTrainedModel, tokens: int = 128) -> float:
    """Bytes per token that autograd keeps of one layer, without parameters."""
    layer = hf.model.layers[0]
    kept: dict[int, int] = {}
    storages = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages.append(storage)  # a freed storage's id could be reused by another one
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"):
        hidden = torch.empty(1, tokens, hf.config.hidden_size, dtype=torch.bfloat16)
        places = torch.zeros(1, tokens, dtype=torch.int64)
        rope = type(hf.model.rotary_emb)(hf.config)(hidden, places)
        hidden.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(hidden, position_embeddings=rope, attention_mask=None, use_cache=False)
    own = {parameter.untyped_storage()._cdata for parameter in layer.parameters()}
    own |= {part.untyped_storage()._cdata for part in rope}
    return sum(size for key, size in kept.items() if key not in own) / tokens
