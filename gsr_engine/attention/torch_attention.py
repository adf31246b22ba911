"""Attention in plain torch, for CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from csrc_triton import rms_norm
from gsr_engine.attention.decode_blocks import VECTOR, DecodeBlocks, multiple
from gsr_engine.attention.kv_cache import KVCache
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.kv.segments import PAGE_SIZE, context_length
from gsr_engine.model.rope import rope_table
from gsr_engine.step.batch import Batch, slots
from gsr_engine.step.plan import Chunk


@dataclass(frozen=True, slots=True)
class _PrefillBucket:
    """Prefill chunks of similar size, padded to one shape: S chunks of at most Q rows, K keys."""

    rows: torch.Tensor  # [S, Q] row of the batch; padding repeats the chunk's first row
    real: torch.Tensor  # [S * Q] bool, which of them are not padding
    key_slots: torch.Tensor  # [S, K]
    mask: torch.Tensor  # [S, 1, Q, K] bool


class TorchAttention:
    """Prefill gathers its keys through the page table once; decode keeps dense working copies.

    Both are batched: the number of tensor operations of a layer grows with the number of
    different shapes in flight, not with tokens or streams.
    """

    def __init__(self, model: ModelConfig, cache: KVCache, length: int) -> None:
        self._model = model
        self._cache = cache
        cos, sin = rope_table(model.rope, model.head_dim, length).chunk(2, dim=1)
        # (x1, x2) rotates to (x1, x2) * (cos, cos) + (x2, x1) * (-sin, sin); a query is divided by
        # the root of its length, as scores need it, in the same breath.
        halves = torch.cat([cos, cos, -sin, sin], dim=1)
        self._rope_table = halves.view(-1, 2, 1, model.head_dim)
        head_scale = torch.ones(model.num_heads + model.num_kv_heads, 1)
        head_scale[: model.num_heads] = model.head_dim**-0.5
        self._head_scale = head_scale
        # Keys and values of a row go to the same slot of two halves of one tensor.
        self._halves = torch.tensor([0, cache.padding_slot + PAGE_SIZE])
        self._blocks = DecodeBlocks(model, cache)
        self._prefills: list[_PrefillBucket] = []
        self._cos = self._sin = halves[:0]
        self._kv_slots = torch.empty(0, dtype=torch.int64)
        self._num_rows = 0  # without padding

    def reset(self) -> None:
        """Forget everything that was kept between steps."""
        self._blocks = self._blocks.emptied()

    def begin(self, batch: Batch) -> None:
        """Sort the step's chunks into decode blocks and prefill buckets."""
        rope = self._rope_table[batch.positions] * self._head_scale
        self._cos, self._sin = rope.unbind(1)
        self._num_rows = sum(map(len, batch.chunks))
        self._kv_slots = (batch.slot_mapping[:, None] + self._halves).view(-1)
        self._blocks.begin(batch)
        buckets: dict[tuple[int, int], list[tuple[Chunk, int]]] = {}
        for chunk, row in zip(batch.chunks, batch.rows, strict=True):
            if not chunk.decode:
                keys = context_length(chunk.segment.context) + chunk.stop
                shape = (_size_class(len(chunk)), _padded_keys(keys))
                buckets.setdefault(shape, []).append((chunk, row))
        padding = self._cache.padding_slot
        self._prefills = [_prefill_bucket(m, shape[1], padding) for shape, m in buckets.items()]

    def forward(
        self,
        layer: int,
        qkv: torch.Tensor,
        q_norm: torch.Tensor | None,
        k_norm: torch.Tensor | None,
    ) -> torch.Tensor:
        """Normalise, rotate, write and attend; see `AttentionBackend.forward`."""
        heads, kv_heads = self._model.num_heads, self._model.num_kv_heads
        if q_norm is not None and k_norm is not None:
            q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=1)
            eps = self._model.rms_norm_eps
            qkv = torch.cat([rms_norm(q, q_norm, eps), rms_norm(k, k_norm, eps), v], dim=1)
        self._rotate(qkv[:, : heads + kv_heads])
        q, kv = qkv[:, :heads], qkv[:, heads:].reshape(-1, kv_heads, self._model.head_dim)
        out = torch.empty_like(q)
        if self._num_rows < len(out):
            out[self._num_rows :] = 0.0
            kv[2 * self._num_rows :] = 0.0  # what lies at the padding slot must be finite
        self._cache.pages[layer].view(-1, *kv.shape[1:]).index_copy_(0, self._kv_slots, kv)
        self._blocks.attend(layer, q, kv.view(-1, 2, *kv.shape[1:]), out)
        for bucket in self._prefills:
            _attend_prefill(bucket, q, self._cache.pages[layer].flatten(1, 2), out)
        return out

    def _rotate(self, qk: torch.Tensor) -> None:
        wide = qk.float()
        swapped = wide.roll(wide.shape[-1] // 2, dims=-1)
        torch.addcmul(wide * self._cos, swapped, self._sin, out=qk)


def _size_class(n: int) -> int:
    """Sizes that share a padded batch: two classes per octave, so padding is at most a third."""
    octave = 1 << max(n - 1, 31).bit_length() - 1
    return octave * 3 // 2 if n <= octave * 3 // 2 else octave * 2


_KEY_BLOCK = 512
"""Keys that scaled_dot_product_attention sums over at a time on a CPU."""


def _padded_keys(keys: int) -> int:
    """Key length to compute with, from a chunk's own length alone: the order in which the last
    block is summed depends on it, so a row keeps its bits whatever shares its bucket.
    """
    size = _size_class(keys) if keys <= _KEY_BLOCK else keys
    return multiple(size, _KEY_BLOCK if keys > _KEY_BLOCK else VECTOR)


def _prefill_bucket(
    members: list[tuple[Chunk, int]], num_keys: int, padding_slot: int
) -> _PrefillBucket:
    gathered = []
    for chunk, _ in members:
        spans = [(span.segment, span.start, span.stop) for span in chunk.segment.context]
        spans.append((chunk.segment, 0, chunk.stop))
        gathered.append(np.concatenate([slots(*span) for span in spans]))
    queries = np.array([len(chunk) for chunk, _ in members])
    totals = np.array([len(keys) for keys in gathered])
    # Masked keys have a weight of 0, and what that meets must be finite.
    key_slots = np.full((len(members), num_keys), padding_slot, dtype=np.int64)
    for row, keys in zip(key_slots, gathered, strict=True):
        row[: len(keys)] = keys
    offsets = np.arange(multiple(int(queries.max()), VECTOR))
    real = offsets < queries[:, None]
    rows = np.array([row for _, row in members])[:, None] + offsets * real
    # Query i of a chunk sees everything before the chunk and the chunk up to itself.
    visible = (totals - queries)[:, None] + offsets + 1
    mask = np.arange(key_slots.shape[1]) < visible[:, :, None]
    return _PrefillBucket(
        rows=torch.from_numpy(rows),
        real=torch.from_numpy(real.reshape(-1)),
        key_slots=torch.from_numpy(key_slots),
        mask=torch.from_numpy(mask).unsqueeze(1),
    )


def _attend_prefill(
    bucket: _PrefillBucket,
    q: torch.Tensor,
    slots_kv: torch.Tensor,
    out: torch.Tensor,
) -> None:
    keys, values = slots_kv[:, bucket.key_slots].transpose(2, 3)
    queries = q[bucket.rows].transpose(1, 2)
    attended = _attention(queries, keys, values, bucket.mask)
    if not attended.sum().isfinite():
        attended = _attention_around_nan(queries, keys, values, bucket.mask)
    flat = attended.transpose(1, 2).flatten(0, 1)
    out[bucket.rows.flatten()[bucket.real]] = flat[bucket.real]


def _attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """[S, num_heads, Q, head_dim] of the queries to keys and values [S, num_kv_heads, K, head_dim]
    where the mask [S, 1, Q, K] says so.
    """
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, scale=1.0, enable_gqa=True
    )


def _attention_around_nan(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The same where some keys or values are not finite: NaN for those who see them, nobody else.

    A masked one would spread, because 0 * NaN is NaN: to tokens before it, whose KV other requests
    may read through the prefix cache.
    """
    finite = (keys.isfinite().all(-1) & values.isfinite().all(-1)).all(1)
    keys, values = (torch.nan_to_num(x, 0.0, 0.0, 0.0) for x in (keys, values))
    seen = (mask & ~finite[:, None, None]).any(-1, keepdim=True)
    return _attention(queries, keys, values, mask).masked_fill(seen, float("nan"))
