"""Attention directly over the pages, with the kernels of `csrc_triton`, on every device."""

from __future__ import annotations

import torch

from csrc_triton import (
    PagedSpan,
    PrefillPlan,
    WorkList,
    decode_attention,
    prefill_attention,
    prefill_tiling,
    rms_norm,
    rope_and_cache,
)
from gsr_engine.attention.decode_work import DecodeWork
from gsr_engine.attention.kv_cache import KVCache
from gsr_engine.attention.sharing import Sharing
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.rope_config import Rope
from gsr_engine.model.rope import rope_table
from gsr_engine.step.batch import Batch
from gsr_engine.step.plan import Chunk


class PagedAttention:
    """Decoding rows use one work list, prefilling rows one prefill plan; no KV is ever copied.

    Attributes:
        lists: makes the work lists of decoding rows.
    """

    def __init__(self, model: ModelConfig, cache: KVCache, length: int, sharing: Sharing) -> None:
        self._model = model
        self._cache = cache
        self._rotations = _Rotations(model, length, cache.keys.device)
        self._growth = _query_growth(model, length, cache.keys.dtype, cache.keys.device)
        self._sharing = sharing
        self._tiling = prefill_tiling(model.num_heads, cache.keys[0])
        self.lists = DecodeWork(sharing)
        self._positions = self._slots = torch.empty(0, dtype=torch.int64)
        self._work: WorkList | None = None
        self._prefill: PrefillPlan | None = None

    def begin(self, batch: Batch) -> None:
        """Make the work list and the prefill plan of a step."""
        device, decodes = self._cache.keys.device, batch.num_decodes
        work = None
        if decodes:
            work = self.lists.build(batch.chunks[:decodes]).on(device)
        else:  # a stream that goes on later may have lost its pages, and be computed in others
            self.reset()
        prefills = batch.chunks[decodes:]
        plan = None
        if prefills:
            chunks = [_paged(chunk) for chunk in prefills]
            plan = PrefillPlan.from_segments(chunks, device, self._tiling)
        self.bind(batch.positions, batch.slot_mapping, work, plan)

    def bind(
        self,
        positions: torch.Tensor,
        slots: torch.Tensor,
        work: WorkList | None,
        prefill: PrefillPlan | None = None,
    ) -> None:
        """Set the inputs of the layers; rows of the work list come before rows of the plan."""
        self._positions, self._slots = positions, slots
        self._work, self._prefill = work, prefill

    def forward(
        self,
        layer: int,
        qkv: torch.Tensor,
        q_norm: torch.Tensor | None,
        k_norm: torch.Tensor | None,
    ) -> torch.Tensor:
        """Normalise, rotate, write and attend; see `LayerAttention.forward`."""
        model, eps = self._model, self._model.rms_norm_eps
        q, k, v = qkv.split([model.num_heads, model.num_kv_heads, model.num_kv_heads], dim=1)
        if q_norm is not None and k_norm is not None and model.family.qk_norm == "projection":
            q = rms_norm(q.flatten(1), q_norm, eps).view(q.shape)
            k = rms_norm(k.flatten(1), k_norm, eps).view(k.shape)
            q_norm = k_norm = None
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        where = *self._rotations.of(layer, self._positions), keys, values, self._slots
        q = rope_and_cache(q, k, v, *where, q_norm=q_norm, k_norm=k_norm, eps=eps)
        if self._growth is not None:
            q = q * self._growth[self._positions]
        return self._attend(q, keys, values, model.layers[layer].window)

    def _attend(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        scale, out = self._model.score_scale, torch.empty(q.shape, dtype=q.dtype, device=q.device)
        split = 0 if self._work is None else self._work.num_rows
        cache = keys, values
        if self._work is not None:
            positions = None if window is None else self._positions[:split]
            decode_attention(
                q[:split],
                *cache,
                self._work,
                scale,
                window=window,
                positions=positions,
                out=out[:split],
            )
        if self._prefill is not None:
            prefill_attention(
                q[split:], *cache, self._prefill, scale, window=window, out=out[split:]
            )
        return out

    def reset(self) -> None:
        """Drop everything that was kept between steps."""
        self.lists = DecodeWork(self._sharing)


class _Rotations:
    """The rotary table of each layer; layers of one kind share it."""

    def __init__(self, model: ModelConfig, length: int, device: torch.device) -> None:
        self._kinds = model.layers
        # A table of one row for layers that rotate nothing: all their positions count as 0.
        tables = [rope_table(None, model.head_dim, 1)]
        ropes: list[Rope | None] = [None]
        for kind in model.layers:
            if kind.rope not in ropes:
                ropes.append(kind.rope)
                tables.append(rope_table(kind.rope, model.head_dim, length))
        tables = [table.to(device) for table in tables]
        self._tables = [tables[ropes.index(kind.rope)] for kind in model.layers]

    def of(self, layer: int, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The table of a layer, and the row of each position in it."""
        if self._kinds[layer].rope is None:
            positions = torch.zeros_like(positions)
        return self._tables[layer], positions


def _query_growth(
    model: ModelConfig, length: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor | None:
    """What queries are multiplied by at each position, [length, 1, 1]; None if by nothing."""
    if model.query_scaling is None:
        return None
    beta, original = model.query_scaling
    positions = torch.arange(length)
    growth = 1 + beta * torch.log(1 + torch.floor(positions / original))
    return growth.to(device, dtype).view(-1, 1, 1)


def _paged(chunk: Chunk) -> tuple[PagedSpan, list[PagedSpan]]:
    segment = chunk.segment
    context = [
        PagedSpan(s.segment.pages, s.start, s.stop, s.segment.position) for s in segment.context
    ]
    return PagedSpan(segment.pages, chunk.start, chunk.stop, segment.position), context
