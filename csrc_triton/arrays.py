"""Arrays of runs of different lengths that lie one behind the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer[Any]]


def begins_of(lengths: IntArray) -> IntArray:
    """Where each run begins."""
    return lengths.cumsum() - lengths


def run_indices(begins: IntArray, lengths: IntArray) -> IntArray:
    """begin, begin + 1, ... for each run, `length` numbers of it, one run behind the other."""
    ends = lengths.cumsum()
    total = ends[-1] if len(ends) else 0
    indices: IntArray = (begins - ends + lengths).repeat(lengths) + np.arange(total)
    return indices
