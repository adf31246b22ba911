"""Floating-point operations of training, and the device's peak.

A product of n by m by k numbers is 2nmk operations, and its backward is twice its forward. What
checkpointing recomputes does not count: it is overhead (MFU, arXiv 2204.02311, appendix B).
Attention is counted by two conventions: the pairs of tokens that see one another, and all pairs of
a row. The second one is common in publications, which do not subtract the masked half.
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
        layers: parameters of all layers' products, which every token of a row goes through.
        head: parameters of the output head; only tokens that predict a target go through it.
        pair: operations when one token sees another: all layers and heads, forward only.
    """

    layers: int
    head: int
    pair: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> Flops:
        """Count for a decoder of a family that the engine runs."""
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
        """Operations of training on some rows, by visible pairs and by all pairs."""
        seen = full = products = 0
        for row in rows:
            products += len(row) * self.layers + row.num_targets * self.head
            seen += visible_pairs(row)
            full += len(row) ** 2
        learnt = 6.0 * products
        return learnt + 3.0 * seen * self.pair, learnt + 3.0 * full * self.pair


def visible_pairs(row: Row) -> int:
    """Pairs (reader, writer) of tokens that the row's mask allows; a token sees itself."""
    length = len(row)
    hidden, before = 0, 0
    for branch in row.branch_lengths:
        hidden += branch * before  # a branch does not see the branches beside it
        before += branch
    return length * (length + 1) // 2 - hidden


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 operations per second of a GPU by its data sheet; None if they are unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)
