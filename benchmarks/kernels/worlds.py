"""Paged keys and values of random numbers, laid out like those of an engine in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csrc_triton import PagedSpan

PAGE_SIZE = 16


@dataclass(frozen=True, slots=True)
class Heads:
    """The attention of one layer of a model."""

    query: int
    kv: int
    dim: int

    def token_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of one token's keys and values."""
        return 2 * self.kv * self.dim * dtype.itemsize

    def __str__(self) -> str:
        return f"{self.query}/{self.kv}x{self.dim}"


QWEN2_7B = Heads(28, 4, 128)
QWEN3_8B = Heads(32, 8, 128)
QWEN2_HALF_B = Heads(14, 2, 64)


@dataclass(frozen=True, eq=False)
class Cache:
    """Keys and values of some segments on shuffled pages.

    Attributes:
        keys: [num_pages, PAGE_SIZE, Hkv, D].
        values: likewise.
        spans: one per segment, all of its tokens.
    """

    keys: Tensor
    values: Tensor
    spans: list[PagedSpan]

    @classmethod
    def of(cls, lengths: Sequence[int], heads: Heads, dtype: torch.dtype, device: str) -> Cache:
        """Segments of these lengths, on shuffled pages as after a long time of use."""
        counts = [-(-length // PAGE_SIZE) for length in lengths]
        free = torch.randperm(sum(counts)).tolist()
        spans = []
        for length, count in zip(lengths, counts, strict=True):
            spans.append(PagedSpan(free[:count], 0, length))
            del free[:count]
        shape = (sum(counts), PAGE_SIZE, heads.kv, heads.dim)
        keys, values = (torch.empty(shape, dtype=dtype, device=device).normal_() for _ in range(2))
        return cls(keys, values, spans)

    def dense(self, contexts: Sequence[Sequence[PagedSpan]]) -> tuple[Tensor, Tensor]:
        """Keys and values [B, Hkv, T, D] of contexts of one length T, gathered."""
        slots = torch.stack([torch.cat([_slots(span) for span in spans]) for spans in contexts])
        slots = slots.to(self.keys.device)
        keys, values = (x.flatten(0, 1)[slots].transpose(1, 2) for x in (self.keys, self.values))
        return keys.contiguous(), values.contiguous()


def _slots(span: PagedSpan) -> Tensor:
    tokens = torch.arange(span.start, span.stop)
    return torch.as_tensor(span.pages)[tokens // PAGE_SIZE] * PAGE_SIZE + tokens % PAGE_SIZE


def relative_error(out: Tensor, expected: Tensor) -> float:
    """‖out − expected‖ / ‖expected‖."""
    return float((out.float() - expected.float()).norm() / expected.float().norm())
