"""Turns a StepPlan into the tensors that model and attention read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import torch

from gsr_engine.kv.segments import PAGE_SIZE, Segment, context_length, pages_for
from gsr_engine.step.plan import Chunk, StepPlan
from gsr_engine.step.transfer import to_device


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one step; the rows of a chunk are consecutive, chunks in the plan's order.

    A row has a *source* if its token was drawn in the step before and is not known on the host
    yet. The source is the index of that draw; all other rows have -1.

    Attributes:
        chunks: the plan's chunks, decoding streams first.
        rows: first row of each chunk.
        num_decodes: how many chunks decode.
        inputs: int64 [4, N]. For each row: the token id, the position, the slot of its KV, and the
            source.
        has_sources: whether any row has a source.
        logit_rows: int64 [M], rows that need logits: the last row of each chunk that draws, and all
            rows of one with a draft; behind them the rows that score. None if every row draws.
        num_scored: how many rows score, one for each token that the plan scores.
        draw_rows: for each draw of the plan, its row of the logits.
        assumed: for each draw the tokens of the draft that come before it. None without drafts.
    """

    chunks: list[Chunk]
    rows: list[int]
    num_decodes: int
    inputs: torch.Tensor
    has_sources: bool
    logit_rows: torch.Tensor | None
    num_scored: int
    draw_rows: list[int]
    assumed: list[list[int]] | None

    @property
    def token_ids(self) -> torch.Tensor:
        """int64 [N]; 0 for a row with a source."""
        return self.inputs[0]

    @property
    def positions(self) -> torch.Tensor:
        """int64 [N]."""
        return self.inputs[1]

    @property
    def slot_mapping(self) -> torch.Tensor:
        """int64 [N]."""
        return self.inputs[2]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; the copies do not wait for the device."""
        if device.type == "cpu":
            return self
        rows = self.logit_rows
        return replace(
            self,
            inputs=to_device(self.inputs.numpy(), device),
            logit_rows=None if rows is None else to_device(rows.numpy(), device),
        )


def known_tokens(inputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Token ids, int64 [N], of a batch's inputs; rows with a source take theirs from `drawn`."""
    token_ids, _, _, sources = inputs
    return torch.where(sources < 0, token_ids, drawn[sources])  # -1 is an index, too


def build_batch(plan: StepPlan, drawn: Mapping[Segment, int] | None = None) -> Batch:
    """The tensors of a plan, on the host.

    Args:
        plan: the chunks and draws of the step.
        drawn: for a segment whose next token is not known on the host, the index of its draw in
            the step before.
    """
    count, chunks = plan.num_tokens, plan.chunks
    inputs = np.zeros((4, count), dtype=np.int64)
    inputs[3] = -1
    rows = [0, *accumulate(map(len, chunks))]
    decodes = chunks[: plan.num_decodes]
    at = rows if plan.drafts else None
    has_sources = _put_decodes(decodes, at, inputs, drawn or {})
    for chunk, row in zip(chunks[plan.num_decodes :], rows[plan.num_decodes :], strict=False):
        _put(inputs, row, chunk, chunk.start, chunk.segment.token_ids[chunk.start : chunk.stop])
    if plan.drafts:
        for chunk, row in zip(decodes, rows, strict=False):
            _put(inputs, row + 1, chunk, chunk.start + 1, plan.drafts.get(chunk.segment, []))
    logit_rows, draw_rows = _logit_rows(plan, rows)
    some = len(logit_rows) < count
    scored_rows = _scored_rows(plan, rows)
    logit_rows = [*logit_rows, *scored_rows]
    return Batch(
        chunks=chunks,
        rows=rows[:-1],
        num_decodes=plan.num_decodes,
        inputs=torch.from_numpy(inputs),
        has_sources=has_sources,
        logit_rows=torch.from_numpy(np.array(logit_rows, dtype=np.int64)) if some else None,
        num_scored=len(scored_rows),
        draw_rows=draw_rows,
        assumed=_assumed(plan) if plan.drafts else None,
    )


def _put(
    inputs: npt.NDArray[np.int64], row: int, chunk: Chunk, start: int, token_ids: list[int]
) -> None:
    """Fill in consecutive rows: tokens of a chunk's segment from `start` on."""
    segment, stop, end = chunk.segment, start + len(token_ids), row + len(token_ids)
    inputs[0, row:end] = token_ids
    inputs[1, row:end] = np.arange(segment.position + start, segment.position + stop)
    inputs[2, row:end] = slots(segment, start, stop)


def _put_decodes(
    chunks: Sequence[Chunk],
    rows: list[int] | None,
    inputs: npt.NDArray[np.int64],
    drawn: Mapping[Segment, int],
) -> bool:
    """Fill in the newest tokens of decoding streams; returns whether any of them has a source.

    `rows` are their rows; None if chunk i has row i.
    """
    token_ids, positions, slot_mapping = [], [], []
    has_sources = False
    for row, chunk in enumerate(chunks) if rows is None else zip(rows, chunks, strict=False):
        segment, start = chunk.segment, chunk.start
        if start < len(segment.token_ids):
            token_ids.append(segment.token_ids[start])
        else:
            token_ids.append(0)
            inputs[3, row] = drawn[segment]
            has_sources = True
        positions.append(segment.position + start)
        slot_mapping.append(segment.pages[start // PAGE_SIZE] * PAGE_SIZE + start % PAGE_SIZE)
    where = slice(len(chunks)) if rows is None else rows[: len(chunks)]
    inputs[:3, where] = token_ids, positions, slot_mapping
    return has_sources


def _assumed(plan: StepPlan) -> list[list[int]]:
    """For each draw, the tokens of its chunk's draft that come before it."""
    assumed: list[list[int]] = []
    for index, draws in groupby(plan.draws, itemgetter(0)):
        draft = plan.drafts.get(plan.chunks[index].segment, [])
        assumed += [draft[:ahead] for ahead, _ in enumerate(draws)]
    return assumed


def _logit_rows(plan: StepPlan, rows: list[int]) -> tuple[list[int], list[int]]:
    """The rows that draws need, and for each draw its index among these rows.

    Siblings draw their first tokens from the same row. A chunk with a draft has a draw per row.
    """
    if len(plan.draws) == plan.num_tokens and plan.num_decodes == len(plan.chunks):
        every = list(range(plan.num_tokens))
        return every, every  # every chunk is a decoding stream, which draws
    logit_rows: list[int] = []
    draw_rows: list[int] = []
    previous = -1
    for index, _ in plan.draws:
        chunk = plan.chunks[index]
        if index != previous:
            first = len(logit_rows)
            stop = rows[index] + len(chunk)
            drafted = chunk.segment in plan.drafts
            logit_rows += range(rows[index] if drafted else stop - 1, stop)
            draw_rows.append(first)
        else:
            draw_rows.append(draw_rows[-1] + (chunk.segment in plan.drafts))
        previous = index
    return logit_rows, draw_rows


def _scored_rows(plan: StepPlan, rows: list[int]) -> list[int]:
    """For each token that is scored, the row of the token before it."""
    scored_rows: list[int] = []
    for part in plan.scored:
        before = rows[part.index] - plan.chunks[part.index].start - 1
        scored_rows += range(before + part.start, before + part.stop)
    return scored_rows


def copied_slots(plan: StepPlan) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The KV slots that a plan copies: from, to."""
    read = [slots(s.segment, s.start, s.stop) for spans in plan.copies.values() for s in spans]
    written = [slots(s, 0, context_length(spans)) for s, spans in plan.copies.items()]
    return np.concatenate(read), np.concatenate(written)


_PAGE_OFFSETS = np.arange(PAGE_SIZE, dtype=np.int64)


def slots(segment: Segment, start: int, stop: int) -> npt.NDArray[np.int64]:
    """KV slots of tokens `[start, stop)` of a segment."""
    first = start // PAGE_SIZE
    pages = np.array(segment.pages[first : pages_for(stop)], dtype=np.int64)
    every = (pages[:, None] * PAGE_SIZE + _PAGE_OFFSETS).reshape(-1)
    return every[start - first * PAGE_SIZE : stop - first * PAGE_SIZE]
