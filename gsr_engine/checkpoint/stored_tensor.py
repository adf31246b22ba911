"""What a tensor of a checkpoint is to those who read it, whatever the format of its file."""

from __future__ import annotations

from typing import Protocol

import torch


class StoredTensor(Protocol):
    """A tensor among open weights; only `load` reads its values."""

    @property
    def name(self) -> str:
        """As the file names it."""

    @property
    def dtype(self) -> str:
        """The type in which it is stored, as the file names it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As torch orders it."""

    def load(self) -> torch.Tensor:
        """Its values, in the dtype that is nearest to the stored type."""
