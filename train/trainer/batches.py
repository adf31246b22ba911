"""Packed rows as tensors: one sequence without padding in between, and what each token sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from gsr_engine.errors import InvalidRequest
from train.objectives import objective_index
from train.rows import Row
from train.trainer.attention import Documents, PackedMask, block_mask


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Some rows of a step, one behind the other: T tokens, N of which predict a target.

    Attributes:
        token_ids, positions: int64 [1, T].
        mask: what each token sees.
        predicting: int64 [N], places of the tokens whose next token is a target.
        targets: int64 [N], those next tokens.
        objectives: int64 [N], the index in OBJECTIVES of each target's row.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    mask: PackedMask
    predicting: torch.Tensor
    targets: torch.Tensor
    objectives: torch.Tensor


def collate(rows: Sequence[Row], device: torch.device, pad_to: int = 0) -> PackedBatch:
    """Pack rows; no row at all is one token that predicts nothing.

    Args:
        rows: in the order in which they are packed.
        device: where the tensors go.
        pad_to: least T; what is padded sees and is seen by nothing else. A GPU wants one shape.
    """
    lengths = [len(row) for row in rows]
    starts = np.cumsum([0, *lengths])
    total = max(int(starts[-1]), pad_to, 1)
    token_ids, positions = np.zeros(total, np.int64), np.zeros(total, np.int64)
    documents, branches = np.full(total, -1, np.int64), np.zeros(total, np.int64)
    predicting, targets, objectives = [], [], []
    for index, (row, start) in enumerate(zip(rows, starts[:-1], strict=True)):
        stop = start + len(row)
        token_ids[start:stop] = row.token_ids
        positions[start:stop] = row.positions
        branches[start:stop] = row.branches
        documents[start:stop] = index
        predicting.append(np.arange(start + row.target_start - 1, stop - 1))
        targets.append(token_ids[start + row.target_start : stop])
        objectives.append(np.full(row.num_targets, objective_index(row.objective)))

    def tensor(pieces: list[np.ndarray]) -> torch.Tensor:
        joined = np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
        return torch.from_numpy(joined).to(device, non_blocking=True)

    mask: PackedMask
    if device.type == "cpu":
        mask = Documents.of(lengths, branches, total)
    else:
        mask = block_mask(tensor([documents]), tensor([branches]))
    return PackedBatch(
        token_ids=tensor([token_ids])[None],
        positions=tensor([positions])[None],
        mask=mask,
        predicting=tensor(predicting),
        targets=tensor(targets),
        objectives=tensor(objectives),
    )


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


@dataclass(frozen=True, slots=True)
class StepBatches:
    """One rank's part of a step, and what is known of the whole of it.

    Attributes:
        batches: packs of this rank, as many as every other's.
        counts: target tokens of each objective over all ranks, fp32 [objectives].
        rows: indices of all rows, over all ranks.
        tokens: of all rows.
        computed: tokens of all packs, padding among them.
        flops: of all rows, by the visible pairs and by all pairs.
    """

    batches: list[PackedBatch]
    counts: torch.Tensor
    rows: list[int]
    tokens: int
    computed: int
    flops: tuple[float, float]
