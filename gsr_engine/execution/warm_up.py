"""Launches every kernel that steps may launch, so that none is compiled while serving.

Triton compiles a kernel at its first launch, for seconds. A kernel has a few variants: by the width
of decode's tiles, by the layers' windows, by the dtype of logits that are drawn from. Batches have
no variants of their own (`tests/csrc_triton/test_specialisation.py`), so the smallest will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from csrc_triton import WorkList
from gsr_engine.attention.host_work import ITEM_SIZE, HostWork
from gsr_engine.attention.paged_attention import PagedAttention
from gsr_engine.config import EngineConfig
from gsr_engine.execution.sampler import draw_anything
from gsr_engine.kv.segments import Segment
from gsr_engine.model.decoder import Decoder
from gsr_engine.step.batch import build_batch
from gsr_engine.step.plan import Chunk, StepPlan

_NOBODY: Any = None  # it is not asked to whom a chunk belongs


@torch.inference_mode()
def warm_up(
    decoder: Decoder, attention: PagedAttention, widths: Sequence[int], config: EngineConfig
) -> None:
    """Compute the smallest steps of every kind, and draw from their logits.

    A KV page is written, so nothing may be in it yet.

    Args:
        decoder: the model.
        attention: over the KV pages of the decoder.
        widths: the most rows of an item, for each width of tiles that decode steps may have.
        config: how large steps may be.
    """
    for width in widths:
        _decode(decoder, attention, 1, width)
    for rows in _more_rows(decoder, config):
        _decode(decoder, attention, rows, widths[0])
    logits = decoder.logits(_prefill(decoder, attention))
    draw_anything(logits)
    draw_anything(logits.float())  # as after penalties
    attention.reset()


def _decode(decoder: Decoder, attention: PagedAttention, rows: int, width: int) -> None:
    """Compute rows that attend to nothing and store nothing."""
    device = decoder.device
    positions = torch.zeros(rows, dtype=torch.int64, device=device)
    attention.bind(positions, positions - 1, _empty_work(rows, width, device))
    decoder.hidden(positions, attention, None)


def _empty_work(rows: int, width: int, device: torch.device) -> WorkList:
    entry = np.zeros(1, dtype=np.int32)
    work = HostWork(
        items=np.zeros((0, ITEM_SIZE), dtype=np.int32),
        row_ids=entry,
        partial_ranges=np.zeros((rows, 2), dtype=np.int32),
        partial_ids=entry,
        page_table=entry,
        max_rows_per_item=width,
    )
    return work.on(device)


def _more_rows(decoder: Decoder, config: EngineConfig) -> Iterator[int]:
    """Products of experts have tiles by the number of rows; each serves a factor of 4 or more.

    But the last one may serve only the largest steps.
    """
    rows = 4
    # In fp32 there is one tile.
    if decoder.config.experts is None or decoder.dtype == torch.float32:
        return
    while rows < config.max_batch_tokens:
        yield rows
        rows *= 4
    yield config.max_batch_tokens


def _prefill(decoder: Decoder, attention: PagedAttention) -> torch.Tensor:
    """The hidden state of a prompt of one token."""
    prompt = Segment([0], pages=[0])
    chunk = Chunk(_NOBODY, prompt, 0, 1, decode=False)
    batch = build_batch(StepPlan(chunks=[chunk], num_tokens=1)).to(decoder.device)
    attention.begin(batch)
    return decoder.hidden(batch.token_ids, attention, None)
