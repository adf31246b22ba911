"""Decode steps as CUDA graphs: one launch in place of some hundreds.

A graph replays the same kernels on the same addresses, so the tensors that a step reads stand
still and are filled anew. Their sizes are rounded up, and each rounded shape has a graph of its
own, captured when a step of that shape came for the first time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from gsr_engine.attention.decode_work import HostWork, unpacked
from gsr_engine.attention.paged_attention import PagedAttention
from gsr_engine.attention.sharing import NARROW_LANES
from gsr_engine.model.decoder import Decoder
from gsr_engine.step.batch import Batch, known_tokens
from gsr_engine.step.transfer import put


class Shape(NamedTuple):
    """What a graph is captured for: rows, entries of the work list, and rows of an item at most."""

    rows: int
    entries: int
    rows_per_item: int


def rounded_rows(rows: int) -> int:
    """1, 2, 4, 8, 12, 16, 24, 32, 48, ...: at most a third is padding, from 8 rows on."""
    power = 1 << (rows - 1).bit_length()
    return power * 3 // 4 if power > 8 and rows <= power * 3 // 4 else power


def shape_of(work: HostWork, group: int) -> Shape:
    """The rounded shape of a step."""
    lanes = max(NARROW_LANES, 1 << (work.max_rows_per_item * group - 1).bit_length())
    entries = 1 << (len(work.row_ids) - 1).bit_length()
    return Shape(rounded_rows(work.num_rows), entries, max(1, lanes // group))


class DecodeGraphs:
    """Runs steps that only decode. Without CUDA the same is computed, eagerly."""

    def __init__(self, decoder: Decoder, attention: PagedAttention, page_room: int) -> None:
        self._decoder = decoder
        self._attention = attention
        self._page_room = page_room
        self._steps: dict[Shape, _StaticStep] = {}
        self._pool: Any = None

    def run(self, batch: Batch, drawn: torch.Tensor) -> torch.Tensor:
        """The hidden states of a batch (on the host), [N, hidden_size], good until the next run.

        `drawn`, int64 [draws] at a fixed address, are the tokens that its sources name.
        """
        work = self._attention.lists.build(batch.chunks)
        shape = shape_of(work, self._decoder.config.num_heads // self._decoder.config.num_kv_heads)
        step = self._steps.get(shape)
        if step is None:
            step = self._steps[shape] = _StaticStep(shape, self._page_room, drawn.device)
        step.fill(batch, work)
        self._attention.bind(step.positions, step.slots, step.work)
        if step.graph is not None:
            step.graph.replay()
            return step.hidden[: work.num_rows]
        # The first step of a shape runs as it is: that compiles what is not compiled yet.
        hidden = step.forward(self._decoder, self._attention, drawn)
        if drawn.is_cuda:
            self._capture(step, drawn)
        return hidden[: work.num_rows]

    def _capture(self, step: _StaticStep, drawn: torch.Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            step.hidden = step.forward(self._decoder, self._attention, drawn)
        self._pool = self._pool or graph.pool()
        step.graph = graph


class _StaticStep:
    """The tensors of one shape, which stand still."""

    def __init__(self, shape: Shape, page_room: int, device: torch.device) -> None:
        rows, entries, self._rows_per_item = shape
        self._num_rows, self._num_entries = rows, entries
        self._inputs = torch.zeros((4, rows), dtype=torch.int64, device=device)
        _, self.positions, self.slots, _ = self._inputs
        length = 1 + 7 * entries + rows + 1 + page_room
        self._vector = torch.zeros(length, dtype=torch.int32, device=device)
        self.work = unpacked(self._vector, rows, entries, self._rows_per_item)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.hidden = torch.empty(0, device=device)

    def fill(self, batch: Batch, work: HostWork) -> None:
        """Take the inputs of a step; padding rows read nothing and write nowhere."""
        inputs = np.zeros((4, self._num_rows), dtype=np.int64)
        inputs[2:] = -1
        inputs[:, : work.num_rows] = batch.inputs.numpy()
        put(inputs, self._inputs)
        packed = work.packed(self._num_rows, self._num_entries)
        put(packed, self._vector[: len(packed)])

    def forward(
        self, decoder: Decoder, attention: PagedAttention, drawn: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states of all rows, those of padding among them."""
        return decoder.hidden(known_tokens(self._inputs, drawn), attention, None)
