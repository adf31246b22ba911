"""The tensor of KV pages."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.config import EngineConfig
from gsr_engine.errors import OutOfMemory
from gsr_engine.kv.segments import PAGE_SIZE, pages_for
from gsr_engine.step.transfer import to_device


def pages_in(num_bytes: int, config: EngineConfig, model: ModelConfig, dtype: torch.dtype) -> int:
    """Pages that fit into `num_bytes`, at least one.

    More pages than `max_num_seqs` contexts of full length fill are never needed.
    """
    page_bytes = 2 * model.num_layers * PAGE_SIZE * model.num_kv_heads * model.head_dim
    page_bytes *= dtype.itemsize
    wanted = config.max_num_seqs * (pages_for(config.model_length(model)) + 1)
    return max(1, min(num_bytes // page_bytes, wanted))


_AT_ONCE = 1024
"""Tokens that are copied at once."""


class KVCache:
    """Keys and values of all layers. A *slot* is `page * PAGE_SIZE + offset`.

    Attributes:
        pages: `[num_layers, 2, num_pages + 1, PAGE_SIZE, num_kv_heads, head_dim]`, rotated keys
            at 0, values at 1.
        num_pages: pages that the pool may use.
        padding_slot: a slot of the extra page, to which padding rows write.

    Raises:
        OutOfMemory: the device cannot hold the pages.
    """

    def __init__(
        self, model: ModelConfig, num_pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (model.num_layers, 2, num_pages + 1, PAGE_SIZE, model.num_kv_heads, model.head_dim)
        try:
            self.pages = torch.zeros(shape, dtype=dtype, device=device)
        except RuntimeError:  # on a GPU it is torch.OutOfMemoryError, a kind of it
            gib = math.prod(shape) * dtype.itemsize / 2**30
            raise OutOfMemory(
                f"{num_pages} KV pages take {gib:,.1f} GiB, which {device} cannot give: lower "
                "kv_cache_gib"
            ) from None
        self.num_pages = num_pages
        self.padding_slot = num_pages * PAGE_SIZE

    def copy(self, source: npt.NDArray[np.int64], target: npt.NDArray[np.int64]) -> None:
        """Copy keys and values of all layers from slots to other slots; the host does not wait.

        No slot may be among both. What is in between takes the memory of 1,024 tokens.
        """
        device = self.pages.device
        slots = self.pages.flatten(0, 1).flatten(1, 2)
        read, written = to_device(source, device), to_device(target, device)
        for some, others in zip(read.split(_AT_ONCE), written.split(_AT_ONCE), strict=True):
            slots[:, others] = slots[:, some]
