"""`QuantizedWeight`: a weight in 8 bits, in the layout of the machine that made it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A weight in symmetric 8 bits: each number is an integer from -127 to 127 times a scale.

    Attributes:
        bytes: [blocks, in rounded up to a multiple of 4, 16] uint8. The order within a block is
            that of the chip's instructions, so the bytes mean nothing on another machine.
        scales: [blocks, groups, 16] fp32: one for each output and group of inputs.
        outputs: out, or F of a gated weight [2 F, in].
        inputs: in.
        group: the inputs that share a scale; the last group may be shorter.
        gated: whether blocks of gates and of the other half take turns.
    """

    bytes: Tensor
    scales: Tensor
    outputs: int
    inputs: int
    group: int
    gated: bool
