"""Products with weights that are packed once, with or without a gate behind them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from csrc_triton.checks import Gate
from csrc_triton.cpu.library import GATE_NUMBERS, address, library

_LANES = 16
_MOST_ROWS = 128  # that the kernel packs at once, at most


def pack_weight(weight: Tensor, gated: bool = False) -> Tensor:
    """A weight [out, in] as `linear` reads it: [blocks, in, 16], 16 outputs side by side.

    If it is gated, its first half are gates: blocks of gates and of the other half take turns.
    """
    halves = weight.chunk(2) if gated else (weight,)
    blocks = torch.stack([_blocks(half) for half in halves], dim=1)
    return blocks.flatten(0, 1).contiguous()


def _blocks(weight: Tensor) -> Tensor:
    missing = -weight.shape[0] % _LANES
    if missing:  # a pad of nothing would copy
        weight = F.pad(weight, (0, 0, 0, missing))
    blocks: Tensor = weight.unflatten(0, (-1, _LANES))
    return blocks.transpose(1, 2)


def linear(
    x: Tensor, packed: Tensor, bias: Tensor | None, outputs: int, gate: Gate | None = None
) -> Tensor:
    """See `csrc_triton.packed_linear`."""
    kernels = library(x.dtype)
    if kernels is None:
        raise ValueError(f"there are no CPU kernels for {x.dtype}")
    x, packed, inputs = x.contiguous(), packed.contiguous(), packed.shape[1]
    bias = None if bias is None else bias.contiguous()
    rows = x.numel() // inputs
    out = x.new_empty((*x.shape[:-1], outputs))
    scratch = x.new_empty(min(rows, _MOST_ROWS) * inputs, dtype=torch.float32)
    kernels.linear(
        out.data_ptr(),
        x.data_ptr(),
        packed.data_ptr(),
        address(bias),
        scratch.data_ptr(),
        rows,
        inputs,
        outputs,
        GATE_NUMBERS[gate],
        torch.get_num_threads(),
    )
    return out
