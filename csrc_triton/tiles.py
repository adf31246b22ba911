# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""What decode and prefill attention share: rows packed into tiles, and the walk along a span.

Under GQA the G query heads of a kv head lie side by side in a tile. Lane m of an item is its row
m // G and head m % G. So n rows are n * G lanes, which fill tiles of `block_m` lanes for any G.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl

# Softmax runs in base 2, because the GPU computes exponentials in base 2.
LOG2_E = tl.constexpr(1.4426950408889634)
# The least that tl.dot takes on a GPU; enough for one row of a GQA model.
NARROW = tl.constexpr(16)
# Several programs walk an item with more lanes; its tokens are then shared in the L2 cache.
_MAX_DECODE_LANES = 64
# Positions are smaller than this, so a wider window sees the same; sums of both fit into int32.
WIDEST_WINDOW = 1 << 30


class Tile(NamedTuple):
    """Lanes and tokens of one step, the warps that share it, and how many steps are in flight."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


_DecodeTile = tuple[int, int, int]


class Tiles(NamedTuple):
    """The tiles of a kind of chips, per padded head dim, for 16-bit inputs.

    Attributes:
        decode: of narrow items and of wide ones, each (block_n, num_warps, num_stages).
        prefill: whole tiles.
    """

    decode: dict[int, tuple[_DecodeTile, _DecodeTile]]
    prefill: dict[int, Tile]


# Loads in flight hide the latency of memory: 4.3 TB/s times 700 ns need 23 KB in flight per
# multiprocessor. A step of a narrow decode tile is 32 KiB of keys and values, less for tiny heads.
# Two steps are in flight while one is computed.
# A step of a wide decode tile is half as long, because the loop over items takes registers; more
# programs fit then, and as many bytes are in flight.
# In a prefill tile two warp groups have 64 lanes each: one computes exponentials while the other
# multiplies.
_HOPPER = Tiles(
    decode={
        16: ((128, 4, 3), (64, 4, 3)),
        32: ((128, 4, 3), (64, 4, 3)),
        64: ((128, 4, 3), (64, 4, 3)),
        128: ((64, 4, 3), (32, 4, 3)),
        256: ((32, 8, 3), (32, 8, 3)),
    },
    prefill={
        16: Tile(128, 128, 8, 3),
        32: Tile(128, 128, 8, 3),
        64: Tile(128, 128, 8, 3),
        128: Tile(128, 64, 8, 3),
        256: Tile(64, 32, 8, 2),
    },
)
# Other chips from 8.0 on, not tuned: what fits 99 KB (an L40S's; an A100 has 163, a B200 227, as a
# Hopper has). Their tensor cores leave fewer registers, so wide items need more warps.
_OTHERS = Tiles(
    decode={
        16: ((128, 4, 3), (128, 8, 3)),
        32: ((128, 4, 3), (128, 8, 3)),
        64: ((128, 4, 3), (128, 8, 3)),
        128: ((64, 4, 3), (64, 8, 3)),
        256: ((32, 8, 2), (16, 8, 3)),
    },
    prefill={
        16: Tile(128, 64, 8, 3),
        32: Tile(128, 64, 8, 3),
        64: Tile(128, 32, 8, 3),
        128: Tile(128, 32, 8, 3),
        256: Tile(64, 16, 8, 3),
    },
)
# Exact fp32 cannot use tensor cores: these tiles serve comparisons only, and are not tuned.
_DECODE_FP32 = Tile(16, 32, 8, 1)
_PREFILL_FP32 = Tile(32, 16, 8, 1)


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of a GPU, which is asked once; in the interpreter it is an H100's."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def _tiles(device: torch.device) -> Tiles:
    return _HOPPER if capability(device) == (9, 0) else _OTHERS


def decode_tile(lanes: int, block_d: int, dtype: torch.dtype, device: torch.device) -> Tile:
    """The tile for items of at most `lanes` lanes.

    No tile of the tables spills registers, and each fits: `make kernels-aot` checks it.
    """
    block_m = min(max(triton.next_power_of_2(lanes), NARROW.value), _MAX_DECODE_LANES)
    if dtype == torch.float32:
        return _DECODE_FP32
    narrow, wide = _tiles(device).decode[block_d]
    return Tile(block_m, *(narrow if block_m == NARROW.value else wide))


def prefill_tile(block_d: int, dtype: torch.dtype, device: torch.device) -> Tile:
    """The tile for prefill.

    It does not depend on the lengths of the chunks: every new tile shape would be compiled first.
    """
    if dtype == torch.float32:  # 256 dims take the registers of twice as many warps
        return _PREFILL_FP32._replace(num_warps=max(block_d // 16, 8))
    return _tiles(device).prefill[block_d]


@triton.jit
def lanes_of_tile(tile, row_begin, row_end, kv_head, group: tl.constexpr, block_m: tl.constexpr):
    """(row, query head, whether the row exists) of each lane of one tile."""
    lane = tile * block_m + tl.arange(0, block_m)
    row = row_begin + lane // group
    return row, kv_head * group + lane % group, row < row_end


@triton.jit
def nothing_seen(block_m: tl.constexpr, block_d: tl.constexpr):
    """The state of an online softmax over no tokens: maximum, denominator and numerator."""
    top = tl.full([block_m], float("-inf"), tl.float32)
    return top, tl.zeros([block_m], tl.float32), tl.zeros([block_m, block_d], tl.float32)


@triton.jit
def attend(
    q,
    state,
    cache,
    begin,
    end,
    seen_by_all,
    last_seen,
    first_seen,
    scale,
    token_stride: tl.constexpr,
    head_dim: tl.constexpr,
    page_size: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """Add tokens begin <= t < end of a page list to the lanes' attention; returns the new state.

    Lane m sees only tokens t <= last_seen[m]. Every lane sees the tokens t < seen_by_all, which
    therefore need no mask. `state` is that of the online softmax: running maximum (base 2),
    denominator and numerator. `cache` is (keys of one kv head, their values, page list).

    With a window, lane m sees only tokens t >= first_seen[m]; without one, `first_seen` is None.
    Tokens that no lane sees are skipped by whole tiles. The other tiles stay where they are, so
    that a row's bits do not depend on the rows beside it.

    A token that a lane does not see has a weight of 0 for it, but 0 * NaN is NaN. With a window,
    values that are not finite reach only the lanes that see them.

    Without a window, every lane must see a token of the first tile unless it has seen one before.
    Its maximum is then finite from there on, and -inf - (-inf) cannot arise.
    """
    top, total, acc = state
    keys, values, pages = cache
    # From here on tokens are counted from `begin`. Tiles begin at a page, so each lane's offset
    # inside its page is a constant. Tokens of the first page before `begin` have negative numbers;
    # as unsigned they are large and fail `token < length`. An empty span has no tile.
    length = end - begin
    before = tl.where(length > 0, begin % page_size, 0)
    seen_by_all -= begin
    last_seen = (last_seen - begin).to(tl.uint32)
    dims = tl.arange(0, block_d)
    offsets = tl.arange(0, block_n)
    in_page = (offsets % page_size)[:, None] * token_stride + dims[None, :]
    keys, values = keys + in_page, values + in_page
    page_of = offsets // page_size
    page_first = page_of * page_size - before
    pages += begin // page_size
    start = -before
    if first_seen is not None:
        first_seen -= begin
        seen_by_all_from = tl.max(first_seen, 0)
        start += tl.maximum(tl.min(first_seen, 0) + before, 0) // block_n * block_n
        pages += (start + before) // page_size
    page = tl.load(pages + page_of, mask=start + before + page_first < length, other=0)
    # If they were hoisted, the mask's token numbers would occupy a register each during the loop.
    for first in tl.range(start, length, block_n, disable_licm=True):
        token = (first + offsets).to(tl.uint32)
        place = page.to(tl.int64)[:, None] * (page_size * token_stride)
        there = (token < length)[:, None] & (dims < head_dim)[None, :]
        k = tl.load(keys + place, mask=there, other=0.0)
        v = tl.load(values + place, mask=there, other=0.0)
        # Page numbers are loaded one tile ahead, so that the loads of keys need not wait for them.
        pages += block_n // page_size
        page = tl.load(pages + page_of, mask=first + block_n + page_first < length, other=0)

        scores, v = _scores(q, k, v, first_seen is not None)
        masked = (first < 0) | (first + block_n > seen_by_all)
        if first_seen is not None:
            masked |= first < seen_by_all_from
        if masked:
            scores = _hidden(scores, token, first_seen, last_seen)
        top, total, acc = add_tile((top, total, acc), scores, v, scale, first_seen is not None)
    return top, total, acc


@triton.jit
def _scores(q, k, v, marked: tl.constexpr):
    """Products of queries and keys, and the values.

    If `marked`, all scores of a token are NaN unless its values are finite; others become zeros.
    Keys of NaN have the same effect. The smaller of both tensors takes fewer registers.
    """
    mark_keys: tl.constexpr = marked and q.shape[0] >= q.shape[1]
    if marked:
        finite = tl.abs(v) < float("inf")
        sound = tl.min(finite.to(tl.int32), 1) > 0
        v = tl.where(finite, v, 0.0)
    if mark_keys:
        k = tl.where(sound[:, None], k, float("nan"))
    # fp32 inputs must not go through TF32.
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if marked and not mark_keys:
        scores = tl.where(sound[None, :], scores, float("nan"))
    return scores, v


@triton.jit
def _hidden(scores, token, first_seen, last_seen):
    """Scores of -inf where a lane does not see a token."""
    seen = token[None, :] <= last_seen[:, None]
    if first_seen is not None:
        seen &= token.to(tl.int32)[None, :] >= first_seen[:, None]
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def add_tile(state, scores, v, scale, may_see_nothing: tl.constexpr):
    """One step of the online softmax."""
    top, total, acc = state
    # The scale, which is positive, goes into the exponent: one fused multiply-add per score.
    new_top = tl.maximum(top, tl.max(scores, 1) * scale)
    origin = new_top
    if may_see_nothing:  # a lane that has seen nothing yet: -inf - (-inf) is NaN
        origin = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2(scores * scale - origin[:, None])
    shrink = tl.exp2(top - origin)
    total = total * shrink + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
    return new_top, total, acc
