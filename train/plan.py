"""Which rows a step takes, and how they are packed: pure functions of (seed, step, world size).

There is no state of a loader to save: a run resumes from the number of its step, on any number of
ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gsr_engine.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Plan:
    """Walks through all rows once per epoch, in an order that is shuffled anew each time.

    Each step takes its share of every objective's rows, so that all hold the mixture of the whole.

    Attributes:
        objectives: objective of every row.
        batch: rows of a step; the last one of an epoch is not smaller than the others by more than
            one row per objective, for all are cut evenly.
    """

    objectives: Sequence[str]
    batch: int
    seed: int
    _rows_of: dict[str, npt.NDArray[np.int64]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Find each objective's rows."""
        objectives = np.asarray(self.objectives)
        mine = {str(one): np.flatnonzero(objectives == one) for one in np.unique(objectives)}
        object.__setattr__(self, "_rows_of", mine)

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every row was taken once."""
        return -(-len(self.objectives) // self.batch)

    def rows(self, step: int) -> list[int]:
        """Indices of the rows of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        taken: list[int] = []
        for objective, mine in self._rows_of.items():
            order = np.random.default_rng([self.seed, epoch, *objective.encode()]).permutation(mine)
            begin, end = (len(order) * at // self.steps_per_epoch for at in (place, place + 1))
            taken += order[begin:end].tolist()
        return taken


def check_lengths(lengths: Iterable[int], max_tokens: int) -> None:
    """Raise InvalidRequest where a row is longer than a pack."""
    longest = max(lengths)
    if longest > max_tokens:
        raise InvalidRequest("pack", f"a row has {longest} tokens, a pack holds {max_tokens}")


def pack(lengths: Sequence[int], max_tokens: int, world_size: int) -> list[list[int]]:
    """Distribute rows over packs of at most `max_tokens`, about equally long.

    Returns places in `lengths`, a multiple of `world_size` packs, of which some may be empty: rank
    r takes every world_size-th from r on, so all ranks do the same number of forwards.

    Raises:
        InvalidRequest: a row is longer than a pack.
    """
    check_lengths(lengths, max_tokens)
    longest_first = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    count = -(-sum(lengths) // max_tokens)
    count += -count % world_size
    while True:
        packs: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for place in longest_first:
            emptiest = filled.index(min(filled))
            packs[emptiest].append(place)
            filled[emptiest] += lengths[place]
        if max(filled) <= max_tokens:
            return packs
        count += world_size
