"""Which tokens go to which expert: the slots of a step, sorted by expert."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Routing:
    """The experts of N tokens, of which each goes to k.

    Slot n * k + r is the r-th expert of token n. Everything has one size for all contents and is
    made without a look at the contents, so a CUDA graph can hold it.

    Attributes:
        slots: int64 [N * k], all slots, sorted by expert; those of one expert ascend.
        offsets: int64 [E + 1]; expert e has `slots[offsets[e] : offsets[e + 1]]`.
        top_k: k.
    """

    slots: Tensor
    offsets: Tensor
    top_k: int

    @property
    def num_experts(self) -> int:
        """E."""
        return self.offsets.shape[0] - 1

    @classmethod
    def of(cls, expert_ids: Tensor, num_experts: int) -> Routing:
        """The routing of expert ids [N, k], each in [0, num_experts)."""
        ids, slots = expert_ids.flatten().sort(stable=True)
        bounds = torch.arange(num_experts + 1, device=ids.device)
        return cls(slots, torch.searchsorted(ids, bounds), expert_ids.shape[1])
