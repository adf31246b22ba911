"""The interface of attention: it gets the batch of a step once, then runs layer by layer."""

from __future__ import annotations

from typing import Protocol

from gsr_engine.model.decoder import LayerAttention
from gsr_engine.step.batch import Batch


class AttentionBackend(LayerAttention, Protocol):
    """The attention of one device. It owns the KV pages that it writes and reads."""

    def begin(self, batch: Batch) -> None:
        """Prepare the inputs that all layers of this step share; called once before `forward`."""

    def reset(self) -> None:
        """Drop everything that was kept between steps."""
