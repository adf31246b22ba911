"""LoRA: adapters on every linear layer, for models that are too large to train whole."""

from __future__ import annotations

import math

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from gsr_engine.errors import InvalidRequest

ALPHA = 2
"""The scale of adapters of every rank: peft's lora_alpha is ALPHA * rank."""


def add_adapters(hf: PreTrainedModel, rank: int) -> None:
    """Put adapters beside every linear layer but the head, and freeze all other parameters.

    Raises:
        InvalidRequest: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415  # optional, slow
    except ImportError:
        raise InvalidRequest("lora", "needs peft: pip install 'gsr-engine[train]'") from None
    adapters = LoraConfig(r=rank, lora_alpha=ALPHA * rank, target_modules="all-linear")
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
            whole = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            if isinstance(parameter.data, DTensor):
                mesh, placements = parameter.data.device_mesh, parameter.data.placements
                whole = distribute_tensor(whole.to(parameter.device), mesh, placements)
            parameter.data.copy_(whole)


def merged(hf: PreTrainedModel, name: str, whole: torch.Tensor) -> torch.Tensor:
    """A stored tensor, with its adapter added if it has one.

    Args:
        hf: the model with adapters.
        name: name of the tensor in a checkpoint, e.g. "model.layers.0.mlp.up_proj.weight".
        whole: the tensor, gathered from all ranks.
    """
    path, _, kind = name.rpartition(".")
    module = hf.get_submodule(path)
    if kind != "weight" or not hasattr(module, "lora_A"):
        return whole
    a, b = (_whole(part["default"].weight.data) for part in (module.lora_A, module.lora_B))
    return whole + ALPHA * (b @ a)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
