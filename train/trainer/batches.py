"""Packed rows as tensors: one sequence without padding between rows, and what each token sees."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.errors import InvalidRequest
from train.objectives import objective_index
from train.rows import Row
from train.trainer.attention import Documents, PackedMask, block_mask, check_window
from train.trainer.world import World

if TYPE_CHECKING:  # packs need no `datasets`, which a machine for measuring may lack
    from train.dataset import RowSet

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Some rows of a step, one after the other: T tokens, N of which predict a target.

    Attributes:
        token_ids, positions: int64 [1, T].
        mask: what each token sees.
        predicting: int64 [N], indices of the tokens whose next token is a target.
        targets: int64 [N], the targets.
        objectives: int64 [N], the index in OBJECTIVES of each target's row.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    mask: PackedMask
    predicting: torch.Tensor
    targets: torch.Tensor
    objectives: torch.Tensor


@dataclass(frozen=True, slots=True)
class HostPack:
    """A pack in the host's memory, which a thread prepares while the device computes.

    Attributes:
        lengths: tokens of each row.
        token_ids, positions: int64 [T].
        documents: int64 [T], the row of each token, -1 for padding.
        branches: int64 [T], as `Row.branches`.
        predicting, targets, objectives: int64 [N], as in `PackedBatch`.
    """

    lengths: list[int]
    token_ids: Indices
    positions: Indices
    documents: Indices
    branches: Indices
    predicting: Indices
    targets: Indices
    objectives: Indices

    @classmethod
    def of(cls, rows: Sequence[Row], pad_to: int = 0) -> HostPack:
        """Pack rows, as `collate` does."""
        lengths = [len(row) for row in rows]
        starts = np.cumsum([0, *lengths])
        total = max(int(starts[-1]), pad_to, 1)
        token_ids, positions = np.zeros(total, np.int64), np.zeros(total, np.int64)
        documents, branches = np.full(total, -1, np.int64), np.zeros(total, np.int64)
        none = np.zeros(0, np.int64)
        predicting, targets, objectives = [none], [none], [none]
        for index, (row, start) in enumerate(zip(rows, starts[:-1], strict=True)):
            stop = start + len(row)
            token_ids[start:stop] = row.token_ids
            positions[start:stop] = row.positions
            branches[start:stop] = row.branches
            documents[start:stop] = index
            predicting.append(np.arange(start + row.target_start - 1, stop - 1))
            targets.append(token_ids[start + row.target_start : stop])
            objectives.append(np.full(row.num_targets, objective_index(row.objective)))
        learnt = (np.concatenate(pieces) for pieces in (predicting, targets, objectives))
        return cls(lengths, token_ids, positions, documents, branches, *learnt)

    def to(self, device: torch.device) -> PackedBatch:
        """The tensors, and the mask in the form that the device takes."""

        def tensor(values: Indices) -> torch.Tensor:
            return torch.from_numpy(values).to(device, non_blocking=True)

        mask: PackedMask
        if device.type == "cpu":
            mask = Documents.of(self.lengths, self.branches, len(self.branches))
        else:
            mask = block_mask(tensor(self.documents), tensor(self.branches))
        return PackedBatch(
            token_ids=tensor(self.token_ids)[None],
            positions=tensor(self.positions)[None],
            mask=mask,
            predicting=tensor(self.predicting),
            targets=tensor(self.targets),
            objectives=tensor(self.objectives),
        )


def collate(rows: Sequence[Row], device: torch.device, pad_to: int = 0) -> PackedBatch:
    """Pack rows. Without a row the pack is one token that predicts nothing.

    Args:
        rows: in the order in which they are packed.
        device: where the tensors go.
        pad_to: least T. A padding token sees only itself, and no other token sees it.
    """
    return HostPack.of(rows, pad_to).to(device)


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows of every step: each row once per epoch, in an order of its own for each epoch.

    Each step takes an even share of every objective's rows, so all steps have the same mixture.

    Attributes:
        objectives: objective of every row.
        batch: most rows of a step. Rows are divided evenly: steps of an epoch differ by at most one
            row, and by at most one row of each objective. No step is without a row.
        seed: of the orders.
    """

    objectives: Sequence[str]
    batch: int
    seed: int
    _rows_of: dict[str, Indices] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Find the rows of each objective."""
        objectives = np.asarray(self.objectives)
        rows_of = {str(one): np.flatnonzero(objectives == one) for one in np.unique(objectives)}
        object.__setattr__(self, "_rows_of", rows_of)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that take every row once."""
        return -(-len(self.objectives) // self.batch)

    def rows(self, step: int) -> list[int]:
        """Indices of the rows of a step."""
        steps = self.steps_per_epoch
        epoch, index = divmod(step, steps)
        # Rows that do not divide evenly go round the steps, objective after objective, in an order
        # of the epoch's own: so each step gets as many of them as any other, to one.
        turn = np.random.default_rng([self.seed, epoch]).permutation(steps)
        dealt = 0
        taken: list[int] = []
        for objective, rows in self._rows_of.items():
            order = np.random.default_rng([self.seed, epoch, *objective.encode()]).permutation(rows)
            share, left = divmod(len(order), steps)
            extra = np.zeros(steps, np.int64)
            extra[turn[(dealt + np.arange(left)) % steps]] = 1
            dealt += left
            begin = share * index + int(extra[:index].sum())
            taken += order[begin : begin + share + int(extra[index])].tolist()
        return taken


def check_rows(rows: RowSet, max_tokens: int) -> None:
    """Raise InvalidRequest if a row is longer than a pack, or of an unknown objective."""
    check_lengths(rows.lengths, max_tokens)
    for name in set(rows.objectives):
        objective_index(name)


def check_model(rows: RowSet, model: ModelConfig) -> None:
    """Check that a model reproduces some rows.

    Raises:
        InvalidRequest: a row has a token id that the embedding has no row for.
        UnsupportedModel: a row is longer than the model's sliding window.
    """
    check_window(max(rows.lengths), model.shortest_window)
    largest = rows.largest_id()
    if largest >= model.vocab_size:
        raise InvalidRequest(
            "data",
            f"a row has token id {largest}, the model's embedding ends at "
            f"{model.vocab_size - 1} (vocab_size): resize it, or build the rows with its tokenizer",
        )


def check_lengths(lengths: Iterable[int], max_tokens: int) -> None:
    """Raise InvalidRequest if a row is longer than a pack."""
    longest = max(lengths)
    if longest > max_tokens:
        raise InvalidRequest("pack", f"a row has {longest} tokens, a pack holds {max_tokens}")


def pack(lengths: Sequence[int], max_tokens: int, world_size: int) -> list[list[int]]:
    """Distribute rows over as few packs of at most `max_tokens` as two heuristics find.

    Packs are of about equal length where that takes no more of them. Otherwise they are filled one
    after the other, because on a GPU every pack costs the same.

    Returns indices of `lengths` for each pack. The number of packs is a multiple of `world_size`,
    so all ranks do the same number of forwards; some packs may be empty.

    Raises:
        InvalidRequest: a row is longer than a pack.
    """
    check_lengths(lengths, max_tokens)
    longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    filled = _best_fit(lengths, longest_first, max_tokens)
    fewest = _multiple(-(-sum(lengths) // max_tokens), world_size)
    most = _multiple(len(filled), world_size)
    for count in range(fewest, most + 1, world_size):
        packs = _to_the_emptiest(lengths, longest_first, count)
        if max(sum(lengths[index] for index in one) for one in packs) <= max_tokens:
            return packs
    filled += [[] for _ in range(most - len(filled))]
    # Ranks take packs in turn, so those that are computed together should be alike.
    return sorted(filled, key=lambda one: -sum(lengths[index] for index in one))


def _multiple(count: int, of: int) -> int:
    return count + -count % of


def _to_the_emptiest(
    lengths: Sequence[int], longest_first: Sequence[int], count: int
) -> list[list[int]]:
    """Each row, the longest first, to the pack that is the emptiest."""
    packs: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, number) for number in range(count)]
    for index in longest_first:
        tokens, number = heap[0]
        packs[number].append(index)
        heapq.heapreplace(heap, (tokens + lengths[index], number))
    return packs


def _best_fit(
    lengths: Sequence[int], longest_first: Sequence[int], max_tokens: int
) -> list[list[int]]:
    """Each row, the longest first, to the fullest pack that has room for it, or to a new one."""
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # what is left in each pack, and its number; in order
    for index in longest_first:
        at = bisect_left(rooms, (lengths[index], 0))
        room, number = rooms.pop(at) if at < len(rooms) else (max_tokens, len(packs))
        if number == len(packs):
            packs.append([])
        packs[number].append(index)
        insort(rooms, (room - lengths[index], number))
    return packs


def packs_of_rank(rows: Sequence[Row], max_tokens: int, world: World) -> tuple[list[HostPack], int]:
    """The packs of this rank for some rows, and the tokens that the packs of all ranks compute.

    Every rank gets the same number of packs; some may be empty.
    """
    packs = pack([len(row) for row in rows], max_tokens, world.size)
    # Kernels are compiled for one shape.
    pad_to = 0 if world.device.type == "cpu" else max_tokens
    own = packs[world.rank :: world.size]
    computed = len(packs) * pad_to or sum(max(1, len(row)) for row in rows)
    return [HostPack.of([rows[at] for at in indices], pad_to) for indices in own], computed


@dataclass(frozen=True, slots=True)
class StepBatches:
    """One rank's packs of a step, and totals of the step over all ranks.

    Attributes:
        packs: of this rank; every rank has the same number.
        counts: target tokens of each objective, fp32 [objectives] in the host's memory.
        rows: indices of all rows.
        tokens: tokens of all rows.
        computed: tokens of all packs, with padding.
        flops: operations for all rows, by the visible pairs and by all pairs.
    """

    packs: list[HostPack]
    counts: torch.Tensor
    rows: list[int]
    tokens: int
    computed: int
    flops: tuple[float, float]
