"""Attention behind one small interface: told the rows of a step, then asked layer by layer."""

from __future__ import annotations

from typing import Protocol

from gsr_engine.model.decoder import LayerAttention
from gsr_engine.step.batch import Batch


class AttentionBackend(LayerAttention, Protocol):
    """What a device's attention must do. It owns the KV pages it writes and reads."""

    def begin(self, batch: Batch) -> None:
        """Lay out what the layers of this step will read; called once before `forward`."""

    def reset(self) -> None:
        """Forget everything that was kept between steps."""
