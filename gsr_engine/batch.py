"""StepPlan to tensors: what the model and the attention of one step read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from gsr_engine.kv_cache import slots
from gsr_engine.plan import Chunk, StepPlan
from gsr_engine.segments import PAGE_SIZE, Segment
from gsr_engine.transfer import to_device


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one step; the rows of a chunk are consecutive, chunks in the plan's order.

    Attributes:
        chunks: the plan's chunks, decoding streams first.
        rows: first row of each chunk.
        inputs: int64 [4, N], N padded to the engine's row multiple: of each row the token id, the
            position, the slot where its KV goes, and the source.
        has_sources: whether a row has a source: the draw of the step before that is its token,
            which nobody on the host knows yet. All others have -1.
        logit_rows: int64 [M], rows that need logits: the last row of each chunk that draws; None
            where every row is.
        draw_rows: for each draw of the plan, its row of the logits.
    """

    chunks: list[Chunk]
    rows: list[int]
    inputs: torch.Tensor
    has_sources: bool
    logit_rows: torch.Tensor | None
    draw_rows: list[int]

    @property
    def token_ids(self) -> torch.Tensor:
        """int64 [N]; 0 where the token comes from a source."""
        return self.inputs[0]

    @property
    def positions(self) -> torch.Tensor:
        """int64 [N]."""
        return self.inputs[1]

    @property
    def slot_mapping(self) -> torch.Tensor:
        """int64 [N]."""
        return self.inputs[2]

    @property
    def num_decodes(self) -> int:
        """Rows that decode; they come first."""
        return next(
            (row for row, chunk in zip(self.rows, self.chunks, strict=True) if not chunk.decode),
            len(self.rows),
        )

    def to(self, device: torch.device) -> Batch:
        """The same on a device, without waiting for it."""
        if device.type == "cpu":
            return self
        rows = self.logit_rows
        return replace(
            self,
            inputs=to_device(self.inputs.numpy(), device),
            logit_rows=None if rows is None else to_device(rows.numpy(), device),
        )


def build_batch(
    plan: StepPlan, row_multiple: int, padding_slot: int, drawn: Mapping[Segment, int] | None = None
) -> Batch:
    """Lay a plan out in tensors, on the host.

    `row_multiple` pads rows and logit rows: on CPU in fp32 a matrix product gives the same bits
    for a row whatever the other rows are, if their number is a multiple of a small power of two.
    `drawn` says which draw of the step before is the next token of a segment that lacks it.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    slot_mapping: list[int] = []
    rows: list[int] = []
    sources: list[tuple[int, int]] = []
    for chunk in plan.chunks:
        rows.append(len(token_ids))
        segment, start = chunk.segment, chunk.start
        if chunk.decode:
            if start < len(segment.token_ids):
                token_ids.append(segment.token_ids[start])
            else:
                sources.append((len(token_ids), (drawn or {})[segment]))
                token_ids.append(0)
            positions.append(segment.position + start)
            slot_mapping.append(segment.pages[start // PAGE_SIZE] * PAGE_SIZE + start % PAGE_SIZE)
        else:
            token_ids.extend(segment.token_ids[start : chunk.stop])
            positions.extend(range(segment.position + start, segment.position + chunk.stop))
            slot_mapping.extend(slots(segment, start, chunk.stop).tolist())
    logit_rows, draw_rows = _logit_rows(plan, rows)
    every_row = len(logit_rows) == len(token_ids)
    count = len(token_ids)
    inputs = np.zeros((4, count + (-count % row_multiple)), dtype=np.int64)
    inputs[0, :count], inputs[1, :count], inputs[2, :count] = token_ids, positions, slot_mapping
    inputs[2, count:], inputs[3] = padding_slot, -1
    for row, draw in sources:
        inputs[3, row] = draw
    return Batch(
        chunks=plan.chunks,
        rows=rows,
        inputs=torch.from_numpy(inputs),
        has_sources=bool(sources),
        logit_rows=None if every_row else _padded(logit_rows, row_multiple),
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


def _padded(rows: list[int], multiple: int) -> torch.Tensor:
    return torch.from_numpy(np.array(rows + [0] * (-len(rows) % multiple), dtype=np.int64))
