"""Dense working copies of the streams that decode, so that a layer is two batched products.

Pages are the truth; gathering them anew at every step would cost more than attention itself.
So the siblings of a group keep a *block*: one copy of the context that they share, attended once
for all of them, and one padded row each for their own tokens. Blocks of similar shape lie in one
*bucket*. A block is gathered from the pages when it is made (a fresh fork has nothing of its own
to gather), or made anew when its rows are full; in between, a step appends one token per row.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from gsr_engine.attention.kv_cache import KVCache
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.kv.segments import Context, Segment, context_length
from gsr_engine.step.batch import Batch, slots

_MIN_SIZE = 64
# Lengths are padded to those of others, and yet a stream keeps its last bit in any company:
# lengths are multiples of 16, so that masked tails fill whole vectors; no product is so small that
# torch.bmm takes its plain loop; and none sums over more keys at a time than MKL leaves in one
# block (it cuts more of them at places that depend on their number; from 208 keys on with AVX2).
VECTOR = 16
_SMALLEST_PRODUCT = 400
_SPLIT = 128

IntArray = npt.NDArray[np.int64]


def _power_of_two(n: int, least: int) -> int:
    return max(least, 1 << (n - 1).bit_length())


def _computed_slots(segment: Segment | None) -> IntArray:
    if segment is None or not segment.computed:
        return np.empty(0, dtype=np.int64)
    return slots(segment, 0, segment.computed)


def multiple(n: int, of: int) -> int:
    """The least multiple of `of` from n on."""
    return -(-n // of) * of


def _product(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Weights [B, M, K] x values [B, K, D], summed in the same splits of K always."""
    total = torch.bmm(weights[:, :, :_SPLIT], values[:, :_SPLIT])
    for start in range(_SPLIT, weights.shape[2], _SPLIT):
        split = slice(start, start + _SPLIT)
        total.baddbmm_(weights[:, :, split], values[:, split])
    return total


@dataclass(eq=False, slots=True)
class _Block:
    """The living siblings of one group; `None` marks a row whose stream ended."""

    context: Context
    context_len: int
    segments: list[Segment | None]

    @property
    def alive(self) -> int:
        return sum(segment is not None for segment in self.segments)


@dataclass(eq=False, slots=True)
class _Bucket:
    """Blocks with the same number of rows and the same capacities.

    contexts: [num_layers, 2, blocks, num_kv_heads, context capacity, head_dim]
    own: [num_layers, 2, blocks, num_kv_heads, rows, own capacity, head_dim]
    """

    contexts: torch.Tensor
    own: torch.Tensor
    blocks: list[_Block] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return self.own.shape[4]

    @property
    def own_capacity(self) -> int:
        return self.own.shape[5]

    def reserve(self, count: int) -> None:
        """Make room for `count` blocks, doubling, so that growth costs a constant per block."""
        capacity = self.own.shape[2]
        if count > capacity:
            more = _power_of_two(count, 4) - capacity
            for name in ("contexts", "own"):
                old = getattr(self, name)
                extra = old.new_empty((*old.shape[:2], more, *old.shape[3:]))
                setattr(self, name, torch.cat([old, extra], dim=2) if capacity else extra)

    def remove(self, index: int) -> None:
        """Drop a block; the last one takes its place."""
        last = len(self.blocks) - 1
        if index != last:
            self.contexts[:, :, index] = self.contexts[:, :, last]
            self.own[:, :, index] = self.own[:, :, last]
            self.blocks[index] = self.blocks[last]
        self.blocks.pop()


@dataclass(slots=True)
class _Layout:
    """Index tensors of one bucket: G blocks of n rows, R of them alive."""

    bucket: _Bucket
    context_len: int  # the longest in the bucket, rounded up
    longest: int  # own tokens of the longest row
    grid_rows: torch.Tensor | None  # [G * n] batch row of every block row; None: the same, in order
    alive: torch.Tensor  # [R] flat block rows that are not empty
    rows: torch.Tensor  # [R] their batch rows
    write_index: torch.Tensor  # [R, 2, num_kv_heads] where their new keys and values go in `own`
    mask: torch.Tensor  # [G, 1, n, 1, context_len + own capacity] 0 or -inf
    mask_index: torch.Tensor  # [R] where in the mask their newest token is

    def advance(self) -> None:
        """Every living row has one token more."""
        self.longest += 1
        self.write_index += 1
        self.mask_index += 1
        self.mask.view(-1)[self.mask_index] = 0.0


class DecodeBlocks:
    """The decoding part of `TorchAttention`."""

    def __init__(self, model: ModelConfig, cache: KVCache) -> None:
        self._model = model
        self._cache = cache
        self._groups = model.num_heads // model.num_kv_heads
        # Fewer than 4 query rows against one key would take another product kernel, whose last
        # bit differs; with at least 4 a stream's bits do not depend on how many siblings live.
        self._least_rows = _power_of_two(-(-4 // self._groups), 1)
        one_key = self._groups * model.head_dim
        self._grain = _power_of_two(-(-_SMALLEST_PRODUCT // one_key), VECTOR)
        self._least_capacity = max(_MIN_SIZE, self._grain)
        self._buckets: dict[tuple[int, int, int], _Bucket] = {}
        self._place: dict[Segment, tuple[_Bucket, _Block]] = {}
        self._segments: list[Segment] = []
        self._stops: IntArray = np.empty(0, dtype=np.int64)
        self._layouts: list[_Layout] = []

    def emptied(self) -> DecodeBlocks:
        """A fresh, empty one over the same pages."""
        return DecodeBlocks(self._model, self._cache)

    def begin(self, batch: Batch) -> None:
        """Bring the blocks in line with the streams of this step and lay out their indices."""
        decodes = [
            (row, chunk)
            for row, chunk in zip(batch.rows, batch.chunks, strict=True)
            if chunk.decode
        ]
        segments = [chunk.segment for _, chunk in decodes]
        stops = np.array([chunk.stop for _, chunk in decodes], dtype=np.int64)
        roomy = all(layout.longest < layout.bucket.own_capacity for layout in self._layouts)
        if segments == self._segments and roomy and np.array_equal(stops, self._stops + 1):
            for layout in self._layouts:
                layout.advance()
        else:
            lengths = {chunk.segment: (row, chunk.stop) for row, chunk in decodes}
            self._drop_ended(lengths)
            self._remake(segments, lengths)
            self._layouts = [
                self._layout(bucket, lengths) for bucket in self._buckets.values() if bucket.blocks
            ]
        self._segments, self._stops = segments, stops

    def _drop_ended(self, lengths: dict[Segment, tuple[int, int]]) -> None:
        for segment in self._place.keys() - lengths.keys():
            bucket, block = self._place.pop(segment)
            block.segments[block.segments.index(segment)] = None
            if not block.alive:
                bucket.remove(bucket.blocks.index(block))

    def _remake(self, segments: list[Segment], lengths: dict[Segment, tuple[int, int]]) -> None:
        """Make blocks for new streams, and anew where rows are full or half of them are empty."""
        homeless: dict[int, list[Segment]] = {}
        for segment in segments:
            if segment not in self._place:
                homeless.setdefault(id(segment.context), []).append(segment)
        for bucket in list(self._buckets.values()):
            for block in list(bucket.blocks):
                living = [s for s in block.segments if s is not None]
                full = max(lengths[s][1] for s in living) > bucket.own_capacity
                sparse = bucket.rows > self._least_rows and 2 * len(living) <= bucket.rows
                joined = id(block.context) in homeless
                if full or sparse or joined:
                    bucket.remove(bucket.blocks.index(block))
                    homeless.setdefault(id(block.context), []).extend(living)
        by_shape: dict[tuple[int, int, int], list[_Block]] = {}
        for siblings in homeless.values():
            context = siblings[0].context
            block = _Block(context, context_length(context), list(siblings))
            shape = (
                _power_of_two(len(siblings), self._least_rows),
                _power_of_two(block.context_len, self._least_capacity),
                _power_of_two(max(lengths[s][1] for s in siblings), self._least_capacity),
            )
            block.segments.extend([None] * (shape[0] - len(siblings)))
            by_shape.setdefault(shape, []).append(block)
        for shape, blocks in by_shape.items():
            self._fill(self._bucket(shape), blocks)

    def _bucket(self, shape: tuple[int, int, int]) -> _Bucket:
        if shape not in self._buckets:
            rows, context_capacity, own_capacity = shape
            cache, heads = self._cache.pages, self._model.num_kv_heads
            head = (self._model.num_layers, 2, 0, heads)
            self._buckets[shape] = _Bucket(
                contexts=cache.new_zeros((*head, context_capacity, self._model.head_dim)),
                own=cache.new_zeros((*head, rows, own_capacity, self._model.head_dim)),
            )
        return self._buckets[shape]

    def _fill(self, bucket: _Bucket, blocks: list[_Block]) -> None:
        """Gather the pages of new blocks into a bucket."""
        first, stop = len(bucket.blocks), len(bucket.blocks) + len(blocks)
        bucket.reserve(stop)
        bucket.blocks.extend(blocks)
        contexts = [
            np.concatenate([slots(s.segment, s.start, s.stop) for s in block.context])
            for block in blocks
        ]
        self._gather(bucket.contexts[:, :, first:stop].unsqueeze(4), contexts)
        own = []
        for block in blocks:
            for segment in block.segments:
                own.append(_computed_slots(segment))
                if segment is not None:
                    self._place[segment] = (bucket, block)
        self._gather(bucket.own[:, :, first:stop], own)

    def _gather(self, target: torch.Tensor, runs: list[IntArray]) -> None:
        """Target [num_layers, 2, blocks, num_kv_heads, rows, capacity, head_dim] takes the KV of
        a run of slots per block row; behind a run stands something finite, as a weight of 0 needs.
        """
        blocks, _, rows, _ = target.shape[2:6]
        longest = max(map(len, runs))
        target[..., longest:, :] = 0.0
        if not longest:
            return
        index = np.full((blocks * rows, longest), self._cache.padding_slot)
        for row, run in zip(index, runs, strict=True):
            row[: len(run)] = run
        where = torch.from_numpy(index).view(blocks, rows, longest)
        for layer, pages in zip(target, self._cache.pages.flatten(2, 3), strict=True):
            layer[..., :longest, :] = pages[:, where].permute(0, 1, 4, 2, 3, 5)

    def _layout(self, bucket: _Bucket, lengths: dict[Segment, tuple[int, int]]) -> _Layout:
        count, n, capacity = len(bucket.blocks), bucket.rows, bucket.own_capacity
        placed = [
            lengths[segment] if segment is not None else (-1, 0)
            for block in bucket.blocks
            for segment in block.segments
        ]
        rows, own_lens = np.array(placed, dtype=np.int64).T
        context_lens = np.array([block.context_len for block in bucket.blocks])
        context_len = multiple(int(context_lens.max()), self._grain)
        visible = np.concatenate(
            [
                np.repeat(np.arange(context_len) < context_lens[:, None], n, axis=0),
                np.arange(capacity) < own_lens[:, None],
            ],
            axis=1,
        )
        mask = np.where(visible, np.float32(0), np.float32(-np.inf))
        alive = np.flatnonzero(own_lens)
        ordered = len(alive) == count * n and np.array_equal(rows, np.arange(len(rows)))
        newest = own_lens[alive] - 1
        return _Layout(
            bucket=bucket,
            context_len=context_len,
            longest=int(own_lens.max()),
            grid_rows=None
            if ordered
            else torch.from_numpy(np.where(rows < 0, rows[alive[0]], rows)),
            alive=torch.from_numpy(alive),
            rows=torch.from_numpy(rows[alive]),
            write_index=torch.from_numpy(self._write_index(bucket, alive) + newest[:, None, None]),
            mask=torch.from_numpy(mask).view(count, 1, n, 1, -1),
            mask_index=torch.from_numpy(alive * mask.shape[-1] + context_len + newest),
        )

    def _write_index(self, bucket: _Bucket, alive: IntArray) -> IntArray:
        """[R, 2, num_kv_heads]: first token line of each living row in a layer of `own`."""
        n, heads = bucket.rows, np.arange(self._model.num_kv_heads)
        block, row = alive // n, alive % n
        line = (block[:, None] * len(heads) + heads) * n + row[:, None]
        half = bucket.own.shape[2] * len(heads) * n
        both = np.stack([line, line + half], axis=1)
        return both * bucket.own_capacity

    def attend(self, layer: int, q: torch.Tensor, kv: torch.Tensor, out: torch.Tensor) -> None:
        """Append the new tokens of a layer and write the attention of decoding rows to `out`.

        q (scaled) and out are [N, num_heads, head_dim], kv is [N, 2, num_kv_heads, head_dim].
        """
        for layout in self._layouts:
            new = kv[: len(layout.rows)] if layout.grid_rows is None else kv[layout.rows]
            lines = layout.bucket.own[layer].view(-1, kv.shape[-1])
            lines.index_copy_(0, layout.write_index.view(-1), new.view(-1, kv.shape[-1]))
            if layout.grid_rows is None:
                self._mix(layout, layer, q[: len(layout.rows)], out[: len(layout.rows)])
            else:
                grid = q[layout.grid_rows]
                mixed = torch.empty_like(grid)
                self._mix(layout, layer, grid, mixed)
                out.index_copy_(0, layout.rows, mixed[layout.alive])

    def _mix(self, layout: _Layout, layer: int, q: torch.Tensor, out: torch.Tensor) -> None:
        """Attention of every block row, empty ones too: q and out are [G * n, num_heads, head_dim].

        Shared context and own tokens are two products into one softmax: no merging is needed.
        """
        bucket, groups, dim = layout.bucket, self._groups, q.shape[-1]
        count, n, heads = len(bucket.blocks), bucket.rows, self._model.num_kv_heads
        seen, tail = layout.context_len, multiple(layout.longest, self._grain)
        grid = q.view(count, n, heads, groups, dim).transpose(1, 2).contiguous()
        context = bucket.contexts[layer, :, :count, :, :seen].reshape(2, -1, seen, dim)
        own = bucket.own[layer, :, :count, :, :, :tail].reshape(2, -1, tail, dim)
        shape = (count, heads, n, groups)
        scores = torch.cat(
            [
                torch.bmm(grid.view(-1, n * groups, dim), context[0].mT).view(*shape, seen),
                torch.bmm(grid.view(-1, groups, dim), own[0].mT).view(*shape, tail),
            ],
            dim=-1,
        ).float()
        scores += layout.mask[..., : seen + tail]
        weights = torch.softmax(scores, dim=-1).to(q.dtype)
        mixed = _product(weights[..., :seen].reshape(-1, n * groups, seen), context[1])
        private = _product(weights[..., seen:].reshape(-1, groups, tail), own[1])
        mixed.view(-1).add_(private.view(-1))
        out.view(count, n, heads, groups, dim).copy_(
            mixed.view(count, heads, n, groups, dim).transpose(1, 2)
        )
