"""Packed rows as tensors: one sequence without padding in between, and what each token sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from train.attention import Documents, PackedMask, block_mask
from train.rows import OBJECTIVES, Row


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
        objectives.append(np.full(row.num_targets, OBJECTIVES.index(row.objective)))

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
