"""How long spans are cut for decode attention.

A span is cut by its own length alone, counted from its own start. So neither the cuts nor the last
bit of a result depend on what else a step reads. Short pieces let many programs share a span; long
ones leave fewer partial results to write, read and merge.
"""

from __future__ import annotations

import numpy as np

from csrc_triton.arrays import IntArray

SPLIT = 256
"""Tokens of a piece of a short span."""
# From these lengths on the pieces are longer. Every size is a multiple of the page size, so that
# pieces of a stream's own tokens begin at a page.
_LENGTHS = np.array([4096, 16384, 65536])
_SIZES = np.array([SPLIT, 512, 1024, 2048])
_LONGEST = np.append(_LENGTHS - 1, np.iinfo(np.int64).max)


def piece_sizes(lengths: IntArray) -> tuple[IntArray, IntArray]:
    """Of spans of these lengths: tokens of a piece, and the longest length with such pieces.

    The last piece of a span may be shorter.
    """
    step = _LENGTHS.searchsorted(lengths, side="right")
    return _SIZES[step], _LONGEST[step]
