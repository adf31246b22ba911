"""Is the machine busy with something else? A fixed product tells, timed before and after a run."""

from __future__ import annotations

import time
from statistics import median

import torch

TOLERANCE = 1.15
"""A product that takes so many times its fastest says that others use the machine."""
PRODUCT_SECONDS = 0.4


def time_product() -> float:
    """The median seconds of a fixed product: 64 rows by 64 MiB of weights, as decode steps have."""
    rows, weights = torch.ones(64, 2048), torch.ones(2048, 8192)
    out = torch.empty(64, 8192)
    times: list[float] = []
    stop = time.perf_counter() + PRODUCT_SECONDS
    while len(times) < 3 or time.perf_counter() < stop:
        start = time.perf_counter()
        torch.mm(rows, weights, out=out)
        times.append(time.perf_counter() - start)
    return median(times)
