"""Cross-entropy in chunks, so that all logits never exist at once.

torch 2.13 has this as `torch.nn.functional.linear_cross_entropy`, but bf16 products give bf16
losses there, and this package supports torch 2.11.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

CHUNK = 2**27
"""Logits of one chunk: half a GiB in fp32 for every vocabulary."""


def target_losses(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk: int = CHUNK
) -> torch.Tensor:
    """Cross-entropy of every target, fp32 [N].

    Logits are computed chunk by chunk and recomputed in the backward, so memory does not grow
    with N times V.

    Args:
        hidden: [N, H], the hidden states that predict the targets.
        weight: [V, H], the output head.
        targets: int64 [N].
        chunk: most logits that exist at once.
    """
    rows = max(1, chunk // weight.shape[0])
    if len(targets) <= rows:
        return _losses(hidden, weight, targets)
    pieces = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat(
        [checkpoint(_losses, some, weight, wanted, use_reentrant=False) for some, wanted in pieces]
    )


def _losses(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")
