# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""A mixture of experts: one launch over the blocks of rows of all experts, one that sums.

The host knows the number of slots, not how many each expert has. It launches as many programs as
there could be blocks of rows. Each finds its expert and its rows itself, or ends at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.activation import gated
from csrc_triton.checks import DTYPES, Gate, require
from csrc_triton.routing import Routing

_BLOCK = 1024


class _Tile(NamedTuple):
    """Rows, columns and inputs of one step, the warps that share it, and steps in flight."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


# By rows of an expert, on average. Few rows: reading weights is all that counts, and 32 KiB of them
# are a step. Many rows: two warp groups of 64 rows.
_TILES = {
    16: _Tile(16, 128, 128, 4, 3),
    64: _Tile(64, 128, 64, 4, 3),
    128: _Tile(128, 128, 64, 8, 3),
}
# Exact fp32 cannot use tensor cores: this tile serves comparisons only, and is not tuned.
_FP32 = _Tile(16, 64, 32, 4, 1)


def _tile(slots: int, experts: int, dtype: torch.dtype) -> _Tile:
    if dtype == torch.float32:
        return _FP32
    return next((tile for rows, tile in _TILES.items() if slots <= rows * experts), _TILES[128])


def grouped_linear(
    x: Tensor, weights: Tensor, routing: Routing, outputs: int, gate: Gate | None = None
) -> Tensor:
    """Launch the kernel; see `csrc_triton.grouped_linear`."""
    require(x.dtype in DTYPES, "{} is not one of {}", x.dtype, DTYPES)
    require(weights.dim() == 3, "weights must be [E, out, in], got {}", weights.shape)
    x, weights, inputs = x.contiguous(), weights.contiguous(), x.shape[1]
    slots, experts = routing.slots.shape[0], routing.num_experts
    out = torch.empty((slots, outputs), dtype=x.dtype, device=x.device)
    tile = _tile(slots, experts, x.dtype)
    # With a gate the columns of a step are half gates, half what they gate.
    tile = tile._replace(block_n=tile.block_n // 2) if gate else tile
    row_blocks = min(slots, slots // tile.block_m + experts)
    _grouped_linear_kernel[(row_blocks * triton.cdiv(outputs, tile.block_n),)](
        out,
        x,
        weights,
        routing.slots,
        routing.offsets,
        slots // max(x.shape[0], 1),
        inputs,
        outputs,
        num_experts=experts,
        gate=gate,
        block_e=triton.next_power_of_2(experts),
        **tile._asdict(),
    )
    return out


def weighted_sum(rows: Tensor, weights: Tensor) -> Tensor:
    """Launch the kernel; see `csrc_triton.weighted_sum`."""
    rows, weights = rows.contiguous(), weights.contiguous()
    tokens, top_k = weights.shape
    width = rows.shape[1]
    out = torch.empty((tokens, width), dtype=rows.dtype, device=rows.device)
    grid = (tokens, triton.cdiv(width, _BLOCK))
    _weighted_sum_kernel[grid](out, rows, weights, width, top_k=top_k, block=_BLOCK)
    return out


@triton.jit(do_not_specialize=["slots_per_x"])
def _grouped_linear_kernel(
    out_ptr,
    x_ptr,
    weights_ptr,
    slots_ptr,
    offsets_ptr,
    slots_per_x,
    inputs,
    outputs,
    num_experts: tl.constexpr,
    gate: tl.constexpr,
    block_e: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
):
    # Neighbouring programs read the same rows, and all blocks of an expert the same weights.
    column_blocks = tl.cdiv(outputs, block_n)
    row_block, column_block = tl.program_id(0) // column_blocks, tl.program_id(0) % column_blocks
    expert, begin, end = _rows_of_block(row_block, offsets_ptr, num_experts, block_e, block_m)
    if begin >= end:
        return
    place = begin + tl.arange(0, block_m)
    slot = tl.load(slots_ptr + place, mask=place < end, other=0)
    columns = column_block * block_n + tl.arange(0, block_n)
    offsets = tl.arange(0, block_k)
    x = x_ptr + (slot // slots_per_x)[:, None] * inputs + offsets[None, :]
    halves: tl.constexpr = 1 if gate is None else 2
    weights = weights_ptr + expert * halves * outputs * inputs
    weights += columns.to(tl.int64)[:, None] * inputs + offsets[None, :]
    behind = tl.full([], outputs, tl.int64) * inputs  # from a gate to what it gates

    first, second = _products(
        x,
        weights,
        behind,
        place < end,
        columns < outputs,
        inputs,
        gate is not None,
        block_m,
        block_n,
        block_k,
    )
    dtype = out_ptr.dtype.element_ty
    y = first.to(dtype)
    if gate is not None:
        y = gated(y, second.to(dtype), gate)
    inside = (place < end)[:, None] & (columns < outputs)[None, :]
    tl.store(out_ptr + slot[:, None] * outputs + columns[None, :], y, mask=inside)


@triton.jit
def _rows_of_block(
    row_block,
    offsets_ptr,
    num_experts: tl.constexpr,
    block_e: tl.constexpr,
    block_m: tl.constexpr,
):
    """(expert, begin, end) of the rows of a block; begin = end behind the last block.

    Every expert has ceil(rows / block_m) blocks, one expert's behind the other's.
    """
    experts = tl.arange(0, block_e)
    begins = tl.load(offsets_ptr + experts, mask=experts < num_experts, other=0)
    ends = tl.load(offsets_ptr + experts + 1, mask=experts < num_experts, other=0)
    blocks = tl.cdiv((ends - begins).to(tl.int32), block_m)
    through = tl.cumsum(blocks, 0)
    expert = tl.sum((through <= row_block).to(tl.int32), 0)
    # It is this expert's block number `own`; the sums below have one summand.
    own = experts == expert
    before = tl.sum(tl.where(own, through - blocks, 0), 0)
    begin = tl.sum(tl.where(own, begins, 0), 0) + (row_block - before) * block_m
    end = tl.sum(tl.where(own, ends, 0), 0)
    return expert.to(tl.int64), begin, tl.where(expert < num_experts, end, begin)


@triton.jit
def _products(
    x,
    weights,
    behind,
    row_there,
    column_there,
    inputs,
    has_gate: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
):
    """The products of rows with some columns, and with those that they gate."""
    first = tl.zeros([block_m, block_n], tl.float32)
    second = tl.zeros([block_m, block_n], tl.float32)
    offsets = tl.arange(0, block_k)
    for done in range(0, inputs, block_k):
        there = (offsets < inputs - done)[None, :]
        row = tl.load(x, mask=row_there[:, None] & there, other=0.0)
        some = tl.load(weights, mask=column_there[:, None] & there, other=0.0)
        # fp32 inputs must not go through TF32.
        first = tl.dot(row, tl.trans(some), first, input_precision="ieee")
        if has_gate:
            some = tl.load(weights + behind, mask=column_there[:, None] & there, other=0.0)
            second = tl.dot(row, tl.trans(some), second, input_precision="ieee")
        x += block_k
        weights += block_k
    return first, second


@triton.jit
def _weighted_sum_kernel(
    out_ptr, rows_ptr, weights_ptr, width, top_k: tl.constexpr, block: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    total = tl.zeros([block], tl.float32)
    for rank in tl.static_range(top_k):
        slot = token * top_k + rank
        row = tl.load(rows_ptr + slot * width + columns, mask=inside, other=0.0)
        total += row.to(tl.float32) * tl.load(weights_ptr + slot).to(tl.float32)
    tl.store(out_ptr + token * width + columns, total.to(out_ptr.dtype.element_ty), mask=inside)
