"""Decode steps, and those with short prompts, as CUDA graphs: one launch instead of some hundreds.

A graph replays the same kernels on the same addresses. So the tensors that a step reads keep their
addresses, and each step overwrites their values. A graph has fixed sizes, and a smaller step is
padded. All graphs are captured at the start, over a ladder of sizes. While serving a step takes the
smallest graph that holds it, or runs eagerly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from gsr_engine.attention.host_work import HostWork, packed_size, unpacked
from gsr_engine.attention.paged_attention import PagedAttention
from gsr_engine.attention.partials import entry_bytes
from gsr_engine.attention.readers import room_to_grow
from gsr_engine.attention.sharing import NARROW_LANES, WIDEST_LANES
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.execution import gpu
from gsr_engine.execution.capture import Capture, Replay, capture_for, rungs
from gsr_engine.execution.draw_graphs import DrawGraphs
from gsr_engine.execution.faults import breaks_device
from gsr_engine.execution.sampler import PendingDraws
from gsr_engine.kv.segments import PAGE_SIZE
from gsr_engine.model.decoder import Decoder
from gsr_engine.requests.request import Stream
from gsr_engine.step.batch import Batch, known_tokens
from gsr_engine.step.transfer import put

_log = logging.getLogger(__name__)

_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 144, 160, 192, 256, 320, 384, 448, 512)
"""From 8 rows on, less than a third is padding. Steps with more rows keep a GPU busy eagerly."""
SHORT = 128
"""A prompt of so many tokens may be in a graph: its tokens are rows of decode, like a draft."""
_ENTRIES_PER_ROW = 64
"""Partial results for which a graph has room, on average: a context of 16k tokens or more."""
_PARTIAL_BYTES = 512 << 20
"""What the partial results of the largest graph may take."""
_BYTES_PER_GRAPH = 2 << 20
"""What a graph of some hundred kernels takes on the device: an estimate."""


class Shape(NamedTuple):
    """The sizes of a graph: rows, the most rows of an item, and entries of the work list."""

    rows: int
    rows_per_item: int
    entries: int

    def holds(self, rows: int, rows_per_item: int, entries: int) -> bool:
        """Whether a step of these sizes can be padded to it."""
        return rows <= self.rows and rows_per_item <= self.rows_per_item and entries <= self.entries


def ladder(most_rows: int) -> list[int]:
    """The rows of graphs, ascending, for steps of at most so many rows."""
    return rungs(_ROWS, most_rows)


def short_room() -> int:
    """Upper bound of the page-table entries of what is short in one step."""
    return SHORT * SHORT // PAGE_SIZE + SHORT + room_to_grow(SHORT)


def shapes(model: ModelConfig, most_rows: int, shares: bool) -> list[Shape]:
    """The shapes of all graphs, smallest first.

    Their number is that of the ladder times the widths of decode's tiles: one for rows that share
    nothing, wider ones for items of several rows.

    Args:
        model: heads and head dim.
        most_rows: of a step.
        shares: whether rows share items at all.
    """
    group = model.num_heads // model.num_kv_heads
    widths = [1]
    if shares:
        lanes = range(NARROW_LANES.bit_length() - 1, WIDEST_LANES.bit_length())
        widths = sorted({max(1, (1 << power) // group) for power in lanes})
    most = _PARTIAL_BYTES // entry_bytes(model)
    found = []
    for rows in ladder(most_rows):
        entries = max(rows, min(rows * _ENTRIES_PER_ROW, most))
        narrower = 0
        for width in widths:
            if narrower < rows:
                found.append(Shape(rows, width, entries))
            narrower = width
    return found


def bytes_for_graphs(
    model: ModelConfig, dtype: torch.dtype, most_rows: int, shares: bool, step_bytes: int
) -> int:
    """Bytes of a GPU that the graphs take, for which KV pages must leave room.

    Graphs share one memory pool, which holds what the largest one allocates: partial results, and
    what a step of so many rows allocates besides, `step_bytes`; or the logits of the largest draw.

    Args:
        model: its shape.
        dtype: of activations.
        most_rows: of a step.
        shares: whether rows share items at all.
        step_bytes: what `ladder(most_rows)[-1]` rows allocate without attention.
    """
    every = shapes(model, most_rows, shares)
    partials = every[-1].entries * entry_bytes(model)
    draws = DrawGraphs.bytes_for(model.vocab_size, dtype, most_rows)
    return max(partials + step_bytes, draws) + len(every) * _BYTES_PER_GRAPH


@dataclass(slots=True)
class GraphCounts:
    """What became of the graphs.

    Attributes:
        graphs: that were captured, those of draws among them.
        failed: that could not be captured.
        seconds: that captures took.
        bytes: of the GPU that graphs took.
        replays: steps whose hidden states came from a graph.
        draws_replayed: those of them whose draws came from one, too.
        prefill_replays: those of them that prefilled something short.
        eager_prefill: steps that ran eagerly because what they prefilled is not short.
        eager_too_large: other steps that no graph holds.
    """

    graphs: int = 0
    failed: int = 0
    seconds: float = 0.0
    bytes: int = 0
    replays: int = 0
    draws_replayed: int = 0
    prefill_replays: int = 0
    eager_prefill: int = 0
    eager_too_large: int = 0

    def reset(self) -> None:
        """Count steps from nothing again."""
        self.replays = self.draws_replayed = self.prefill_replays = 0
        self.eager_prefill = self.eager_too_large = 0

    def as_dict(self) -> dict[str, Any]:
        """The counters as plain numbers."""
        return asdict(self)


class DecodeGraphs:
    """Runs steps whose rows are all in one work list; they are captured when it is made.

    Attributes:
        counts: what was captured and replayed.
        hidden: [rows, hidden_size], the hidden states of the last replay.
    """

    def __init__(
        self,
        decoder: Decoder,
        attention: PagedAttention,
        drawn: torch.Tensor,
        every: Sequence[Shape],
        page_room: int,
        capture: Capture | None = None,
    ) -> None:
        """Capture graphs of these shapes, and of their draws.

        A KV page is written, so nothing may be in it yet.

        Args:
            decoder: its weights stay where they are.
            attention: over the KV pages of the decoder.
            drawn: int64 [draws] at a fixed address: the tokens that the sources of a batch index.
            every: the shapes, smallest first.
            page_room: the most entries of a page table that every graph holds.
            capture: captures a call; None takes that of the device.
        """
        self._decoder, self._attention, self._drawn = decoder, attention, drawn
        device, most_rows = drawn.device, every[-1].rows
        self._inputs = torch.zeros(4 * most_rows, dtype=torch.int64, device=device)
        length = max(packed_size(shape.rows, shape.entries) for shape in every) + page_room
        self._vector = torch.zeros(length, dtype=torch.int32, device=device)
        size = (most_rows, decoder.config.hidden_size)
        self.hidden = torch.zeros(size, dtype=decoder.dtype, device=device)
        self._draws = DrawGraphs(decoder, self.hidden, drawn)
        self.counts = GraphCounts()
        self._replays: dict[Shape, Replay] = {}
        self._capture(every, capture or capture_for(device))

    def may_hold(self, batch: Batch) -> bool:
        """Whether one work list should hold all rows of a batch: it decodes, or the rest is short.

        Each row of a prompt reads its segment alone, so the tokens that they may read are bounded:
        by those that a prompt of `SHORT` tokens reads.
        """
        prefills = batch.chunks[batch.num_decodes :]
        reads = sum(len(chunk) * len(chunk.segment) for chunk in prefills)
        return not prefills or (reads <= SHORT**2 and len(batch.token_ids) <= len(self.hidden))

    def graph_for(self, rows: int, rows_per_item: int, entries: int) -> Shape | None:
        """The smallest shape that was captured and holds a step; None if none does."""
        sizes = rows, rows_per_item, entries
        return next((shape for shape in self._replays if shape.holds(*sizes)), None)

    def replay(self, batch: Batch, work: HostWork) -> bool:
        """Compute `hidden` of a batch, unless no graph holds it; returns whether one does.

        Args:
            batch: a batch on the host that prefills nothing, or what is short.
            work: the work list of all its rows.
        """
        shape = self.graph_for(work.num_rows, work.max_rows_per_item, len(work.row_ids))
        packed = None if shape is None else work.packed(shape.rows, shape.entries)
        if shape is None or packed is None or len(packed) > len(self._vector):
            self.counts.eager_too_large += 1
            return False
        inputs = np.zeros((4, shape.rows), dtype=np.int64)
        inputs[2:] = -1  # padding rows: no slot, no source
        inputs[:, : work.num_rows] = batch.inputs.numpy()
        put(inputs.reshape(-1), self._inputs[: inputs.size])
        put(packed, self._vector[: len(packed)])
        self._replays[shape]()
        self.counts.replays += 1
        self.counts.prefill_replays += batch.num_decodes < len(batch.chunks)
        return True

    def draw(self, streams: list[Stream], assumed: list[list[int]] | None) -> PendingDraws | None:
        """One token for each row of the last replay, written to `drawn`; None if no graph can.

        The arguments are those of `Sampler.draw`, for stream i in row i.
        """
        draws = self._draws.replay(streams, assumed)
        self.counts.draws_replayed += draws is not None
        return draws

    def reset(self) -> None:
        """Forget what was kept from the last step."""
        self._draws.reset()

    def _forward(self, shape: Shape) -> Callable[[], object]:
        """Computes `hidden` for one shape, padding rows among them."""
        rows, rows_per_item, entries = shape
        inputs = self._inputs[: 4 * rows].view(4, rows)
        work = unpacked(self._vector, rows, entries, rows_per_item)

        def forward() -> None:
            self._attention.bind(inputs[1], inputs[2], work)
            token_ids = known_tokens(inputs, self._drawn)
            self.hidden[:rows] = self._decoder.hidden(token_ids, self._attention, None)

        return forward

    @torch.inference_mode()
    def _capture(self, every: Sequence[Shape], capture: Capture) -> None:
        """Capture the largest first: its memory serves all others."""
        began, on_gpu = time.perf_counter(), self._drawn.is_cuda
        free = gpu.free_memory()[0] if on_gpu else 0
        failures: list[str] = []  # not the errors: they hold what was allocated

        def tried(call: Callable[[], object]) -> Replay | None:
            try:
                return capture(call)
            except Exception as error:
                if breaks_device(error):
                    raise
                cause = error.__context__ or error  # CUDA refuses the end of such a capture, too
                failures.append(f"{type(cause).__name__}: {cause}")
            gpu.drop_caches()
            return None

        found = {shape: tried(self._forward(shape)) for shape in reversed(every)}
        self._replays = {shape: run for shape in every if (run := found[shape]) is not None}
        num_draws = self._draws.capture(tried)
        counts = self.counts
        counts.graphs, counts.failed = len(self._replays) + num_draws, len(failures)
        counts.seconds = time.perf_counter() - began
        counts.bytes = free - gpu.free_memory()[0] if on_gpu else 0
        _log.info(
            "captured %d graphs in %.1f s, %d MiB",
            counts.graphs,
            counts.seconds,
            counts.bytes >> 20,
        )
        if failures:
            _log.warning(
                "%d graphs could not be captured; such steps take a larger one or run eagerly. "
                "The first: %s",
                len(failures),
                failures[0],
            )
