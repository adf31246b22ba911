"""How much memory a process has taken at most."""

from __future__ import annotations

import sys
from resource import RUSAGE_SELF, getrusage

import torch


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process held so far: of the GPU, or of the host if it runs there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = getrusage(RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
