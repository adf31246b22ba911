"""The tensor of KV pages."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from csrc_triton import cache_views
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.config import EngineConfig
from gsr_engine.errors import OutOfMemory
from gsr_engine.kv.segments import PAGE_SIZE, pages_for
from gsr_engine.step.transfer import to_device


def pages_in(num_bytes: int, config: EngineConfig, model: ModelConfig, dtype: torch.dtype) -> int:
    """Pages that fit into `num_bytes`, at least one.

    More pages than `max_num_seqs` contexts of full length fill are never needed.
    """
    wanted = config.max_num_seqs * (pages_for(config.model_length(model)) + 1)
    return max(1, min(num_bytes // page_bytes(model, dtype), wanted))


def page_bytes(model: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of one page: keys and values of all layers."""
    numbers = 2 * model.num_layers * PAGE_SIZE * model.num_kv_heads * model.head_dim
    return numbers * dtype.itemsize


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros. On a CPU they take memory once they are written, so an unused page costs nothing."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # torch.zeros writes every zero; numpy asks the system for pages that are zero already.
    buffer = np.zeros(math.prod(shape) * dtype.itemsize + _ALIGNMENT, dtype=np.uint8)
    begin = -buffer.ctypes.data % _ALIGNMENT
    aligned = buffer[begin : begin + math.prod(shape) * dtype.itemsize]
    return torch.from_numpy(aligned).view(dtype).view(shape)


_ALIGNMENT = 64
"""Bytes, as torch aligns its own tensors."""
_AT_ONCE = 1024
"""Tokens that are copied at once."""


class KVCache:
    """Keys and values of all layers. A *slot* is `page * PAGE_SIZE + offset`.

    Attributes:
        keys: rotated, `[num_layers, num_pages, PAGE_SIZE, num_kv_heads, head_dim]`.
        values: like keys. The strides of both are those that the device's kernels read.
        num_pages: pages that the pool may use.

    Raises:
        OutOfMemory: the device cannot hold the pages.
    """

    def __init__(
        self, model: ModelConfig, num_pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        page = PAGE_SIZE * model.num_kv_heads * model.head_dim
        shape = (2, model.num_layers, num_pages, page)
        try:
            memory = _zeros(shape, dtype, device)
        except (RuntimeError, MemoryError, ValueError):  # torch.OutOfMemoryError is the first kind
            gib = math.prod(shape) * dtype.itemsize / 2**30
            raise OutOfMemory(
                f"{num_pages} KV pages take {gib:,.1f} GiB, which {device} cannot give: lower "
                "kv_cache_gib"
            ) from None
        self.keys, self.values = cache_views(
            memory[0], memory[1], PAGE_SIZE, model.num_kv_heads, model.head_dim
        )
        self.num_pages = num_pages

    def copy(self, source: npt.NDArray[np.int64], target: npt.NDArray[np.int64]) -> None:
        """Copy keys and values of all layers from slots to other slots; the host does not wait.

        No slot may be among both. What is in between takes the memory of 1,024 tokens.
        """
        device = self.keys.device
        read, written = to_device(source, device), to_device(target, device)
        for some, others in zip(read.split(_AT_ONCE), written.split(_AT_ONCE), strict=True):
            from_page, from_offset = some // PAGE_SIZE, some % PAGE_SIZE
            to_page, to_offset = others // PAGE_SIZE, others % PAGE_SIZE
            for cache in (self.keys, self.values):
                cache[:, to_page, to_offset] = cache[:, from_page, from_offset]
