"""Floating-point operations of training, and what share of the device's peak they come to.

A product of n by m by k numbers is 2nmk operations; its backward is twice its forward. What
checkpointing computes again does not count: it is overhead, not use (MFU, arXiv 2204.02311,
appendix B). Attention is counted by two conventions: the pairs of tokens that really see one
another, and all pairs of a row, as those publish it who do not subtract the masked half.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from train.rows import Row

PEAKS = {
    "H100": 989e12,
    "H200": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "B200": 2250e12,
    "L40S": 362e12,
}
"""Dense bf16 operations per second by part of a device's name, from NVIDIA's data sheets (SXM)."""


@dataclass(frozen=True, slots=True)
class Flops:
    """Counts the operations of forward and backward for one model.

    Attributes:
        layers: parameters of all layers' products; every token of a row meets them.
        head: parameters of the output head; only what predicts a target meets it.
        pair: operations of one token seeing another, all layers and heads, forward only.
    """

    layers: int
    head: int
    pair: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> Flops:
        """For a decoder of the families that the engine runs."""
        hidden, heads = config.hidden_size, config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or hidden // heads
        attention = hidden * head_dim * 2 * (heads + config.num_key_value_heads)
        gated = 3 * hidden * config.intermediate_size
        return cls(
            layers=config.num_hidden_layers * (attention + gated),
            head=hidden * config.vocab_size,
            # Scores and the weighted sum: two products of head_dim.
            pair=4 * config.num_hidden_layers * heads * head_dim,
        )

    def of_rows(self, rows: Iterable[Row]) -> tuple[float, float]:
        """Operations of training on some rows: by visible pairs, and by all pairs."""
        seen = full = products = 0
        for row in rows:
            products += len(row) * self.layers + row.num_targets * self.head
            seen += visible_pairs(row)
            full += len(row) ** 2
        return tuple(6.0 * products + 3.0 * pairs * self.pair for pairs in (seen, full))  # type: ignore[return-value]


def visible_pairs(row: Row) -> int:
    """How many (reader, writer) pairs of tokens the row's mask lets through, itself included."""
    length = len(row)
    hidden, before = 0, 0
    for branch in row.branch_lengths:
        hidden += branch * before  # does not see those beside it
        before += branch
    return length * (length + 1) // 2 - hidden


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 operations per second that a GPU is sold for; None where that is unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)
