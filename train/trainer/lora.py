"""LoRA: adapters on every linear layer, for models that are too large to train whole."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from gsr_engine.errors import InvalidRequest
from train.trainer.config import SftConfig
from train.trainer.sharded import fill, whole

if TYPE_CHECKING:
    from peft import LoraConfig

_TARGETS = {
    *("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"),
    *("gate_proj", "up_proj", "gate_up_proj", "down_proj"),
}
"""Every linear layer of the families but the head."""


def adapter_config(
    hf: PreTrainedModel, rank: int, alpha: int = 0, dropout: float = 0.0
) -> LoraConfig:
    """The adapters in the words of peft.

    Args:
        hf: the model, with its adapters or without.
        rank: of every adapter.
        alpha: the adapters are scaled by alpha / rank; 0 takes twice the rank.
        dropout: share of each adapter's inputs that is dropped in training.

    Raises:
        InvalidRequest: peft is not installed.
    """
    try:
        from peft import LoraConfig  # noqa: PLC0415  # optional, slow
    except ImportError:
        raise InvalidRequest("lora", "needs peft: pip install 'gsr-engine[train]'") from None
    return LoraConfig(
        r=rank,
        lora_alpha=alpha or 2 * rank,
        lora_dropout=dropout,
        target_modules=sorted(
            {name.rpartition(".")[2] for name, _ in hf.named_modules()} & _TARGETS
        ),
        task_type="CAUSAL_LM",
    )


def add_adapters(hf: PreTrainedModel, rank: int, alpha: int = 0, dropout: float = 0.0) -> None:
    """Put adapters beside every linear layer but the head, and freeze all other parameters.

    Raises:
        InvalidRequest: as `adapter_config`.
    """
    adapters = adapter_config(hf, rank, alpha, dropout)
    from peft import inject_adapter_in_model  # noqa: PLC0415

    # Without a wrapper around the model its parameters keep their names.
    inject_adapter_in_model(adapters, hf)
    for name, parameter in hf.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def reset_adapters(hf: PreTrainedModel) -> None:
    """Set B to zero, and A to random values that are the same on any number of ranks."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in hf.named_parameters():
        if ".lora_B." in name:
            parameter.data.zero_()
        elif ".lora_A." in name:
            bound = 1 / math.sqrt(parameter.shape[1])  # as in torch.nn.Linear
            values = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            fill(parameter.data, values)


def merged(hf: PreTrainedModel, name: str, stored: torch.Tensor) -> torch.Tensor:
    """A stored tensor, with its adapter added if it has one.

    Args:
        hf: the model with adapters.
        name: name of the tensor in a checkpoint, e.g. "model.layers.0.mlp.up_proj.weight".
        stored: the tensor, gathered from all ranks.
    """
    path, _, kind = name.rpartition(".")
    module: Any = hf.get_submodule(path)
    if kind != "weight" or not hasattr(module, "lora_A"):
        return stored
    a, b = (whole(part["default"].weight.data) for part in (module.lora_A, module.lora_B))
    scale: float = module.scaling["default"]
    return stored + scale * (b @ a)


def adapter_tensors(hf: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The adapters under peft's names, fp32, gathered one by one; all ranks must iterate."""
    for name, parameter in hf.named_parameters():
        if ".lora_" in name:
            stored = f"base_model.model.{name.replace('.default.', '.')}"
            yield stored, whole(parameter.data).to("cpu", torch.float32).contiguous()


def seed_dropout(config: SftConfig, step: int, rank: int) -> None:
    """Make what the adapters drop a function of the run's seed, the step and the rank."""
    if config.lora_dropout:
        torch.manual_seed(random.Random(f"{config.seed} {step} {rank}").getrandbits(63))


@contextmanager
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """A context in which the adapters drop nothing, for evaluations."""
    dropping = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    for module in dropping:
        module.eval()
    try:
        yield
    finally:
        for module in dropping:
            module.train()
