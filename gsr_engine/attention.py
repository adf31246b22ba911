"""Attention behind one small interface: told the rows of a step, then asked layer by layer."""

from __future__ import annotations

from typing import Protocol

import torch

from gsr_engine.batch import Batch


class AttentionBackend(Protocol):
    """What a device's attention must do. It owns the KV pages it writes and reads."""

    def begin(self, batch: Batch) -> None:
        """Lay out what the layers of this step will read; called once before `forward`."""

    def forward(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        """Rotate q and k, write k and v to their slots, attend; returns [N, num_heads, head_dim].

        qkv is [N, num_heads + 2 num_kv_heads, head_dim]: queries, keys, values of the rows that
        `begin` was told, before rotation; it may be overwritten. Every row attends to all of its
        segment's context and causally to its own segment. All KV of the step is written before
        any is read. Padding rows return anything finite.
        """

    def reset(self) -> None:
        """Forget everything that was kept between steps."""
