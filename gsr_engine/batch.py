"""StepPlan to tensors: what the model and the attention of one step read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gsr_engine.kv_cache import slots
from gsr_engine.plan import Chunk, StepPlan
from gsr_engine.segments import PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one step; the rows of a chunk are consecutive, chunks in the plan's order.

    Attributes:
        chunks: the plan's chunks.
        rows: first row of each chunk.
        token_ids, positions: int64 [N]; N is padded to the engine's row multiple.
        slot_mapping: int64 [N], where each row's KV goes.
        logit_rows: int64 [M], rows that need logits: the last row of each chunk that draws; None
            where every row is.
        draw_rows: for each draw of the plan, its row of the logits.
    """

    chunks: list[Chunk]
    rows: list[int]
    token_ids: torch.Tensor
    positions: torch.Tensor
    slot_mapping: torch.Tensor
    logit_rows: torch.Tensor | None
    draw_rows: list[int]


def build_batch(plan: StepPlan, row_multiple: int, padding_slot: int) -> Batch:
    """Lay a plan out in tensors.

    `row_multiple` pads rows and logit rows: on CPU in fp32 a matrix product gives the same bits
    for a row whatever the other rows are, if their number is a multiple of a small power of two.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    slot_mapping: list[int] = []
    rows: list[int] = []
    for chunk in plan.chunks:
        rows.append(len(token_ids))
        segment, start = chunk.segment, chunk.start
        if chunk.decode:
            token_ids.append(segment.token_ids[start])
            positions.append(segment.position + start)
            slot_mapping.append(segment.pages[start // PAGE_SIZE] * PAGE_SIZE + start % PAGE_SIZE)
        else:
            token_ids.extend(segment.token_ids[start : chunk.stop])
            positions.extend(range(segment.position + start, segment.position + chunk.stop))
            slot_mapping.extend(slots(segment, start, chunk.stop).tolist())
    logit_rows, draw_rows = _logit_rows(plan, rows)
    padding = -len(token_ids) % row_multiple
    all_rows = len(logit_rows) == len(token_ids)
    return Batch(
        chunks=plan.chunks,
        rows=rows,
        token_ids=_tensor(token_ids, padding, 0),
        positions=_tensor(positions, padding, 0),
        slot_mapping=_tensor(slot_mapping, padding, padding_slot),
        logit_rows=None if all_rows else _tensor(logit_rows, -len(logit_rows) % row_multiple, 0),
        draw_rows=draw_rows,
    )


def _logit_rows(plan: StepPlan, rows: list[int]) -> tuple[list[int], list[int]]:
    """One row per drawing chunk, and which of them each draw reads (siblings read the same)."""
    logit_rows: list[int] = []
    draw_rows: list[int] = []
    previous = -1
    for index, _ in plan.draws:
        if index != previous:
            logit_rows.append(rows[index] + len(plan.chunks[index]) - 1)
            previous = index
        draw_rows.append(len(logit_rows) - 1)
    return logit_rows, draw_rows


def _tensor(values: list[int], padding: int, fill: int) -> torch.Tensor:
    return torch.from_numpy(np.array(values + [fill] * padding, dtype=np.int64))
