"""Cross-entropy whose logits never exist whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

CHUNK = 2**27
"""Logits of one chunk: half a GiB in fp32, whatever the vocabulary."""


def target_losses(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk: int = CHUNK
) -> torch.Tensor:
    """Cross-entropy of every target, fp32 [N].

    Logits are made chunk by chunk, and once more in the backward, so memory does not grow with
    N times V.

    Args:
        hidden: [N, H], the hidden states that predict the targets.
        weight: [V, H], the output head.
        targets: int64 [N].
        chunk: logits that may exist at once.
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
