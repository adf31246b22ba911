"""Packed rows as tensors: one sequence without padding between rows, and what each token sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.errors import InvalidRequest
from train.dataset import RowSet
from train.objectives import objective_index
from train.rows import Row
from train.trainer.attention import Documents, PackedMask, block_mask, check_window
from train.trainer.world import World


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


def collate(rows: Sequence[Row], device: torch.device, pad_to: int = 0) -> PackedBatch:
    """Pack rows. Without a row the pack is one token that predicts nothing.

    Args:
        rows: in the order in which they are packed.
        device: where the tensors go.
        pad_to: least T. A padding token sees only itself, and no other token sees it.
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
    """The rows of every step: each row once per epoch, in an order of its own for each epoch.

    Each step takes an even share of every objective's rows, so all steps have the same mixture.

    Attributes:
        objectives: objective of every row.
        batch: most rows of a step. Rows are divided evenly, so steps of an epoch differ by at most
            one row per objective.
        seed: of the orders.
    """

    objectives: Sequence[str]
    batch: int
    seed: int
    _rows_of: dict[str, npt.NDArray[np.int64]] = field(init=False, repr=False)

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
        epoch, index = divmod(step, self.steps_per_epoch)
        taken: list[int] = []
        for objective, rows in self._rows_of.items():
            order = np.random.default_rng([self.seed, epoch, *objective.encode()]).permutation(rows)
            begin, end = (len(order) * at // self.steps_per_epoch for at in (index, index + 1))
            taken += order[begin:end].tolist()
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
    check_window(max(rows.lengths), model.sliding_window)
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
    """Distribute rows over packs of at most `max_tokens`, of about equal length.

    Returns indices of `lengths` for each pack. The number of packs is a multiple of `world_size`,
    so all ranks do the same number of forwards; some packs may be empty.

    Raises:
        InvalidRequest: a row is longer than a pack.
    """
    check_lengths(lengths, max_tokens)
    longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    count = -(-sum(lengths) // max_tokens)
    count += -count % world_size
    while True:
        packs: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for index in longest_first:
            emptiest = filled.index(min(filled))
            packs[emptiest].append(index)
            filled[emptiest] += lengths[index]
        if max(filled) <= max_tokens:
            return packs
        count += world_size


def packs_of_rank(
    rows: Sequence[Row], max_tokens: int, world: World
) -> tuple[list[PackedBatch], int]:
    """The packs of this rank for some rows, and the tokens that the packs of all ranks compute.

    Every rank gets the same number of packs; some may be empty.
    """
    packs = pack([len(row) for row in rows], max_tokens, world.size)
    # Kernels are compiled for one shape.
    pad_to = 0 if world.device.type == "cpu" else max_tokens
    own = packs[world.rank :: world.size]
    batches = [collate([rows[at] for at in indices], world.device, pad_to) for indices in own]
    computed = len(packs) * pad_to or sum(max(1, len(row)) for row in rows)
    return batches, computed


@dataclass(frozen=True, slots=True)
class StepBatches:
    """One rank's packs of a step, and totals of the step over all ranks.

    Attributes:
        batches: packs of this rank; every rank has the same number.
        counts: target tokens of each objective, fp32 [objectives].
        rows: indices of all rows.
        tokens: tokens of all rows.
        computed: tokens of all packs, with padding.
        flops: operations for all rows, by the visible pairs and by all pairs.
    """

    batches: list[PackedBatch]
    counts: torch.Tensor
    rows: list[int]
    tokens: int
    computed: int
    flops: tuple[float, float]
