"""What the kernels that walk along rows of logits take."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 512  # logits.h has the same number


def contiguous_rows(logits: Tensor) -> Tensor:
    """The logits with tokens side by side in memory; rows may have any distance."""
    return logits if logits.stride(1) == 1 else logits.contiguous()


def block_scratch(rows: int, vocab: int) -> Tensor:
    """Two fp32 numbers [2, rows, blocks] for each block of each row, up to whole vectors of 16."""
    blocks = -(-vocab // (16 * _BLOCK)) * 16
    return torch.empty((2, rows, blocks), dtype=torch.float32)
