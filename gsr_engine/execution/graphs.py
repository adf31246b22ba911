"""Decode steps as CUDA graphs: one launch instead of some hundreds.

A graph replays the same kernels on the same addresses. So the tensors that a step reads keep their
addresses, and each step overwrites their values. Sizes are rounded up; each rounded shape has its
own graph, captured at the first step of that shape.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from gsr_engine.attention.host_work import HostWork, packed_size, unpacked
from gsr_engine.attention.paged_attention import PagedAttention
from gsr_engine.attention.sharing import NARROW_LANES
from gsr_engine.model.decoder import Decoder
from gsr_engine.step.batch import Batch, known_tokens
from gsr_engine.step.transfer import put


class Shape(NamedTuple):
    """The sizes of a graph: rows, entries of the work list, and the most rows of an item."""

    rows: int
    entries: int
    rows_per_item: int


def rounded_rows(rows: int) -> int:
    """The next of 1, 2, 4, 8, 12, 16, 24, 32, 48, ...

    From 8 rows on, less than a third is padding.
    """
    power = 1 << (rows - 1).bit_length()
    return power * 3 // 4 if power > 8 and rows <= power * 3 // 4 else power


def shape_of(work: HostWork, group: int) -> Shape:
    """The rounded shape of a step."""
    lanes = max(NARROW_LANES, 1 << (work.max_rows_per_item * group - 1).bit_length())
    entries = 1 << (len(work.row_ids) - 1).bit_length()
    return Shape(rounded_rows(work.num_rows), entries, max(1, lanes // group))


class DecodeGraphs:
    """Runs steps that only decode; without CUDA it computes the same eagerly."""

    def __init__(self, decoder: Decoder, attention: PagedAttention, page_room: int) -> None:
        self._decoder = decoder
        self._attention = attention
        self._page_room = page_room
        self._steps: dict[Shape, _StaticStep] = {}
        self._pool: Any = None

    @property
    def num_shapes(self) -> int:
        """How many shapes of steps there were so far; each has its own graph."""
        return len(self._steps)

    def run(self, batch: Batch, drawn: torch.Tensor) -> torch.Tensor:
        """The hidden states of a batch, [N, hidden_size]; the next run overwrites them.

        Args:
            batch: a batch on the host whose chunks all decode.
            drawn: int64 [draws] at a fixed address: the tokens that the batch's sources index.
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
        # The first step of a shape runs eagerly: kernels must be compiled before a capture.
        hidden = step.forward(self._decoder, self._attention, drawn)
        if drawn.is_cuda:
            self._capture(step, drawn)
        return hidden[: work.num_rows]

    def _capture(self, step: _StaticStep, drawn: torch.Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # thread_local: other threads of the host program may use CUDA during the capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            step.hidden = step.forward(self._decoder, self._attention, drawn)
        self._pool = self._pool or graph.pool()
        step.graph = graph


class _StaticStep:
    """The tensors of one shape, at fixed addresses, and the graph that reads them."""

    def __init__(self, shape: Shape, page_room: int, device: torch.device) -> None:
        rows, entries, self._rows_per_item = shape
        self._num_rows, self._num_entries = rows, entries
        self._inputs = torch.zeros((4, rows), dtype=torch.int64, device=device)
        _, self.positions, self.slots, _ = self._inputs
        length = packed_size(rows, entries) + page_room
        self._vector = torch.zeros(length, dtype=torch.int32, device=device)
        self.work = unpacked(self._vector, rows, entries, self._rows_per_item)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.hidden = torch.empty(0, device=device)

    def fill(self, batch: Batch, work: HostWork) -> None:
        """Copy in the inputs of a step; padding rows attend to nothing and store nothing."""
        inputs = np.zeros((4, self._num_rows), dtype=np.int64)
        inputs[2:] = -1  # padding rows: no slot, no source
        inputs[:, : work.num_rows] = batch.inputs.numpy()
        put(inputs, self._inputs)
        packed = work.packed(self._num_rows, self._num_entries)
        put(packed, self._vector[: len(packed)])

    def forward(
        self, decoder: Decoder, attention: PagedAttention, drawn: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states of all rows, including padding rows."""
        return decoder.hidden(known_tokens(self._inputs, drawn), attention, None)
