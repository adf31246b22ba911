"""Parameters that lie in parts on several ranks: read whole, and filled from a whole tensor."""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, gathered from its ranks; all of them must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fill(parameter: torch.Tensor, values: torch.Tensor) -> None:
    """Copy this rank's part of `values`, which every rank holds whole, into a parameter."""
    if isinstance(parameter, DTensor):
        mesh, placements = parameter.device_mesh, parameter.placements
        # Without a source rank nothing is sent: each rank takes its part of its own copy.
        values = distribute_tensor(
            values.to(parameter.device), mesh, placements, src_data_rank=None
        )
    parameter.copy_(values)
