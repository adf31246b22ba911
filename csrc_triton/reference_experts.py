"""Plain-torch references of a mixture of experts."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from csrc_triton.checks import Gate
from csrc_triton.reference import gated_activation
from csrc_triton.routing import Routing


def grouped_linear(
    x: Tensor, weights: Tensor, routing: Routing, outputs: int, gate: Gate | None = None
) -> Tensor:
    """A product for each expert that has slots."""
    out = x.new_empty(routing.slots.shape[0], outputs)
    slots_per_row = out.shape[0] // max(x.shape[0], 1)
    bounds = routing.offsets.tolist()
    for expert, (begin, end) in enumerate(pairwise(bounds)):
        if begin < end:
            slots = routing.slots[begin:end]
            product = F.linear(x[slots // slots_per_row], weights[expert])
            out[slots] = gated_activation(product, gate) if gate else product
    return out


def weighted_sum(rows: Tensor, weights: Tensor) -> Tensor:
    """Rounded once, behind the sum."""
    wide = rows.float().unflatten(0, weights.shape) * weights.float().unsqueeze(-1)
    total = torch.zeros_like(wide[:, 0])
    for rank in range(weights.shape[1]):
        total += wide[:, rank]
    return total.to(rows.dtype)
