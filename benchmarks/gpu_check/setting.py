"""Where a check runs, and how large it is."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What every part is told.

    Attributes:
        device: "cuda", or "cpu", where the kernels' references run.
        tiny: shapes that a CPU does in no time; otherwise those of real models.
        out: folder of the results.
    """

    device: str
    tiny: bool
    out: Path

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU to measure."""
        return self.device == "cuda"

    def free_memory(self) -> None:
        """On a GPU, give back what nobody refers to any more, before something large is made."""
        if self.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()
