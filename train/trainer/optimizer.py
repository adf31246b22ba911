"""AdamW, its learning rate, and gradients that are clipped or skipped."""

from __future__ import annotations

import math

import torch
from torch.distributed.tensor import DTensor

from train.trainer.config import SftConfig


def make_optimizer(model: torch.nn.Module, config: SftConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained; vectors (norms, biases) do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=(0.9, config.beta2),
        fused=True,
    )


def learning_rate(config: SftConfig, step: int, steps: int) -> float:
    """The learning rate of a step, the first being 0, of a run of `steps`."""
    warmup = config.warmup if config.warmup >= 1 else config.warmup * steps
    if step < warmup:
        return config.lr * (step + 1) / math.ceil(warmup)
    progress = (step - warmup) / max(1.0, steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr + (1 - config.final_lr) * cosine)


def clip_gradients(model: torch.nn.Module, limit: float) -> float:
    """Scale all gradients so that their norm is at most `limit`; returns the norm before that."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return float(norm)
