"""Which spans the streams that see them read together: a cost model for decode attention.

A span that n streams see is read by one item of n rows, or by n items of one row each. Together,
its keys and values leave memory once, but the tile is wider and takes longer; apart, every stream
has a program of its own. Nothing is gained while the chip has a free place for each of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Of the narrowest tile of the decode kernel.
NARROW_LANES = 16


@dataclass(frozen=True, slots=True)
class SharingCosts:
    """What decides, measured at warm-up on a GPU.

    Attributes:
        places: programs of an item that the chip runs at a time without one delaying another.
        wide: seconds of an item whose lanes fill the widest tile, over those of a one-row item,
            when the chip is full of such.
        lanes: of the widest tile.
    """

    places: int = 0
    wide: float = 1.0
    lanes: int = 64


class Sharing:
    """Chooses, and counts what was chosen; without costs nothing is ever shared."""

    def __init__(self, costs: SharingCosts | None, num_heads: int, num_kv_heads: int) -> None:
        self._costs = costs
        self._group = num_heads // num_kv_heads
        self._kv_heads = num_kv_heads
        self._counts = {"spans_shared": 0, "spans_apart": 0, "tokens_saved": 0}

    def choose(self, readers: Sequence[int], pieces: Sequence[int], own_pieces: int) -> list[bool]:
        """For spans of so many readers and pieces: whether each is read together.

        `own_pieces` are those that no two streams see.
        """
        costs = self._costs
        apart = own_pieces + sum(n * p for n, p in zip(readers, pieces, strict=True))
        if costs is None or apart * self._kv_heads <= costs.places:
            return [False] * len(readers)
        return [n > 1 and self._wide_cost(costs, n) < n for n in readers]

    def _wide_cost(self, costs: SharingCosts, readers: int) -> float:
        """Cost of an item of so many rows, in items of one row."""
        tiles = math.ceil(readers * self._group / costs.lanes)
        return tiles * (costs.wide if readers * self._group > NARROW_LANES else 1.0)

    def count(self, shared: int, apart: int, tokens_saved: int) -> None:
        """Count the spans of one step that more than one stream sees, and what sharing saved."""
        self._counts["spans_shared"] += shared
        self._counts["spans_apart"] += apart
        self._counts["tokens_saved"] += tokens_saved

    def as_dict(self) -> dict[str, Any]:
        """Counters since the start: spans by step, and KV tokens that were not read again."""
        return dict(self._counts)
