"""Rows to padded tensors, in micro-batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from train.rows import JOIN, Objective, Row

OBJECTIVES: tuple[Objective, ...] = ("direct", "refine")


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Some rows of a step, padded to one length L.

    Attributes:
        token_ids, positions: int64 [B, L].
        mask: bool [B, 1, L, L], what each token sees; None where all rows are plainly causal.
        predicting: bool [B, L], the tokens whose next token is a target.
        targets: int64 [T], those next tokens in order.
        objectives: int64 [T], the index in OBJECTIVES of each target's row.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor | None
    predicting: torch.Tensor
    targets: torch.Tensor
    objectives: torch.Tensor


def micro_batches(rows: Sequence[Row], max_tokens: int) -> Iterator[MicroBatch]:
    """All rows, sorted by length, at most `max_tokens` padded tokens each (one row at least)."""
    ordered = sorted(rows, key=lambda row: (any(row.branches), len(row)))
    begin = 0
    while begin < len(ordered):
        end = begin + 1
        while (
            end < len(ordered)
            and len(ordered[end]) * (end + 1 - begin) <= max_tokens
            and any(ordered[end].branches) == any(ordered[begin].branches)
        ):
            end += 1
        yield collate(ordered[begin:end])
        begin = end


def collate(rows: Sequence[Row]) -> MicroBatch:
    """Pad rows on the right."""
    shape = (len(rows), max(map(len, rows)))
    token_ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    branches = np.zeros(shape, np.int64)
    predicting = np.zeros(shape, bool)
    for index, row in enumerate(rows):
        token_ids[index, : len(row)] = row.token_ids
        positions[index, : len(row)] = row.positions
        branches[index, : len(row)] = row.branches
        predicting[index, row.target_start - 1 : len(row) - 1] = True
    targets = [token for row in rows for token in row.token_ids[row.target_start :]]
    objectives = [OBJECTIVES.index(row.objective) for row in rows for _ in range(row.num_targets)]
    return MicroBatch(
        token_ids=torch.from_numpy(token_ids),
        positions=torch.from_numpy(positions),
        mask=branch_mask(torch.from_numpy(branches)) if branches.any() else None,
        predicting=torch.from_numpy(predicting),
        targets=torch.tensor(targets),
        objectives=torch.tensor(objectives),
    )


def branch_mask(branches: torch.Tensor) -> torch.Tensor:
    """Bool [B, 1, L, L]: i sees j <= i if j is of branch 0 or i's own, or if i joins all."""
    reader, writer = branches[:, :, None], branches[:, None, :]
    length = branches.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return (causal & ((writer == 0) | (writer == reader) | (reader == JOIN))).unsqueeze(1)
