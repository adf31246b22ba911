"""`QuantizedWeight`: a weight in 8 bits, in the layout of the machine that made it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

LANES = 16
"""Outputs that lie side by side; together they are a block."""


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A weight in symmetric 8 bits: each number is an integer from -127 to 127 times a scale.

    Attributes:
        data: uint8 [bytes]: the integers of all blocks, and behind them the scales. The order
            within a block is that of the chip's instructions: `data` means nothing on another
            machine. Of several weights of one shape, [E, bytes]; see `stacked`.
        outputs: out, or F of a gated weight [2 F, in].
        inputs: in.
        group: the inputs that share a scale; the last group may be shorter.
        gated: whether blocks of gates and of the other half take turns.
    """

    data: Tensor
    outputs: int
    inputs: int
    group: int
    gated: bool

    @classmethod
    def empty(cls, outputs: int, inputs: int, group: int, gated: bool) -> QuantizedWeight:
        """A weight whose numbers are not set yet."""
        blocks = -(-outputs // LANES) * (2 if gated else 1)
        shape = cls(torch.empty(0, dtype=torch.uint8), outputs, inputs, group, gated)
        size = blocks * LANES * (shape.padded + shape.groups * torch.float32.itemsize)
        return replace(shape, data=shape.data.new_empty(size))

    @property
    def groups(self) -> int:
        """Scales of an output."""
        return -(-self.inputs // self.group)

    @property
    def padded(self) -> int:
        """Integers of an output: as many as inputs, rounded up to a multiple of 4."""
        return -(-self.inputs // 4) * 4

    @property
    def scales_begin(self) -> int:
        """Where in `data` the scales begin."""
        scale_bytes = self.groups * torch.float32.itemsize
        return self.data.shape[-1] // (self.padded + scale_bytes) * self.padded

    def stacked(self, data: Tensor) -> QuantizedWeight:
        """Several weights of this one's shape, whose `data` are the rows of a matrix."""
        return replace(self, data=data)

    def __getitem__(self, index: int) -> QuantizedWeight:
        """One of several weights."""
        return replace(self, data=self.data[index])

    @property
    def scales(self) -> Tensor:
        """Fp32 [blocks, groups, 16]."""
        return self.data[self.scales_begin :].view(torch.float32).view(-1, self.groups, LANES)
