"""Where a check runs, and how large it is."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The settings of every part.

    Attributes:
        device: "cuda", or "cpu", where the kernels' references run.
        tiny: shapes that a CPU computes in seconds; otherwise shapes of real models.
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
        """On a GPU, free unreferenced memory before something large is allocated."""
        if self.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()
