# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""What decode and prefill attention share: rows packed into tiles, and the walk along a span.

GQA packs the G query heads of a kv head side by side: lane m of an item with n rows is row m // G
and head m % G, so n * G lanes fill tiles of `block_m` lanes for any G.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

# Softmax runs in base 2, the chip's own exponential.
LOG2_E = tl.constexpr(1.4426950408889634)
# An item with more lanes is walked by several programs, which meet in the L2 cache.
MAX_LANES = 64


class Tile(NamedTuple):
    """Lanes and tokens of one step, and the warps that share it."""

    block_m: int
    block_n: int
    num_warps: int


def tile_shape(lanes: int, block_d: int, dtype: torch.dtype) -> Tile:
    """The tile for an item of so many lanes: compiled for sm_90, none spills a register.

    No side is below 16, the least that tl.dot takes on a GPU (the interpreter takes any).
    """
    block_m = min(max(triton.next_power_of_2(lanes), 16), MAX_LANES)
    if dtype == torch.float32:  # exact fp32 has no tensor cores: it is here to be compared with
        return Tile(min(block_m, 32), 16, 8)
    if block_d <= 128:
        return Tile(block_m, 64, 4)
    return Tile(block_m, 32, 8 if block_m == MAX_LANES else 4)


@triton.jit
def lanes_of_tile(tile, row_begin, row_end, kv_head, group: tl.constexpr, block_m: tl.constexpr):
    """(row, query head, is there such a row) of each lane of one tile."""
    lane = tile * block_m + tl.arange(0, block_m)
    row = row_begin + lane // group
    return row, kv_head * group + lane % group, row < row_end


@triton.jit
def attend(
    q,
    top,
    total,
    acc,
    pages,
    begin,
    end,
    last_seen,
    k_ptr,
    v_ptr,
    kv_head,
    scale,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    page_size: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """Let the rows of q see tokens begin <= t < end of a page list, lane m only t <= last_seen[m].

    (top, total, acc) is the state of the online softmax: running maximum (base 2), denominator and
    numerator. Every lane must see a token of the first tile unless it has seen one before: then
    `top` is finite from there on and -inf - (-inf) cannot arise.
    """
    dims = tl.arange(0, block_d)
    in_head = dims < head_dim
    for first in range(begin, end, block_n):
        token = first + tl.arange(0, block_n)
        inside = token < end
        page = tl.load(pages + token // page_size, mask=inside, other=0).to(tl.int64)
        slot = page * page_size + token % page_size
        base = (slot * num_kv_heads + kv_head) * head_dim
        k = tl.load(
            k_ptr + base[None, :] + dims[:, None],
            mask=inside[None, :] & in_head[:, None],
            other=0.0,
        )
        # fp32 inputs must not go through TF32.
        scores = tl.dot(q, k, input_precision="ieee") * (scale * LOG2_E)
        seen = inside[None, :] & (token[None, :] <= last_seen[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp2(top - new_top)
        weights = tl.exp2(scores - new_top[:, None])
        v = tl.load(
            v_ptr + base[:, None] + dims[None, :],
            mask=inside[:, None] & in_head[None, :],
            other=0.0,
        )
        total = total * shrink + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        top = new_top
    return top, total, acc
