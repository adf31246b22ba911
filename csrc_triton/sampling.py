# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Sampling without a sort and without a decision on the host: three launches of a fixed shape.

1. `summarize`, one program per block of a row: the block's maximum and the sum of its weights.
2. `_pack_kernel`, one program per block: copies the weights that truncation may keep, without
   gaps. A row without truncation returns at once; in other rows only blocks that hold such a
   weight are read again.
3. `_draw_kernel`, one program per row: finds the floor (weights at or above it are kept) among the
   packed weights. The inverse CDF over blocks then selects a block, that inside it a token.

The floor is found exactly: weights lie in [0, 1], where floats order as their bit patterns do.
Each walk along the packed weights finds the floor's next two bits; 15 walks find all 30. Most rows
pack fewer than 128 chunks of 32 weights. A walk is then one step, out of the L1 cache, below 1 µs.
The worst case, flat logits, packs all 152k weights: 37 steps per walk.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.logprobs import MAX_BLOCKS, block_of, cut_rows, merge_blocks, summarize, weigh

_FAR = tl.constexpr(2**31 - 1)
_WALKS = tl.constexpr(15)
_TOP_DIGIT = tl.constexpr(1 << 28)
# Weights per chunk of packed weights, and chunks per step of a walk.
_CHUNK = tl.constexpr(32)
_STEP = tl.constexpr(128)
# The packing bound (`_bound`) is a power of two from 1 down to 2 ** -31, or 0.
_BOUNDS = tl.constexpr(32)


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    indices: Tensor,
) -> Tensor:
    """Launch the kernels; see `csrc_triton.sample`."""
    rows, vocab = logits.shape
    cut, device = cut_rows(vocab), logits.device
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    summary = summarize(logits, temperature, cut)
    # As large as the logits, so that it cannot overflow; written only for rows that truncate.
    packed = torch.empty((rows, cut.blocks, cut.block), dtype=torch.float32, device=device)
    sizes = torch.empty((rows, cut.blocks), dtype=torch.int32, device=device)
    chunks = torch.empty(
        (rows, cut.blocks, cut.block // _CHUNK.value), dtype=torch.int32, device=device
    )
    ids = torch.empty(rows, dtype=torch.int64, device=device)
    rules = (temperature, top_k, top_p, min_p)
    of_row = (logits.stride(0), vocab, cut.blocks, cut.block)
    _pack_kernel[(rows, cut.blocks)](
        packed, sizes, logits, *summary, *rules, *of_row, num_warps=cut.warps
    )
    _draw_kernel[(rows,)](
        ids,
        logits,
        *summary,
        packed,
        sizes,
        chunks,
        *rules,
        seeds,
        indices,
        *of_row,
        num_warps=8,
    )
    return ids


@triton.jit
def _truncates(temperature, top_k, top_p, min_p, vocab):
    """Whether a rule may drop a token whose weight is above 0."""
    return (temperature != 0) & ((top_k > 0) & (top_k < vocab) | (top_p < 1) | (min_p > 0))


@triton.jit
def _pack_kernel(
    packed_ptr,
    sizes_ptr,
    logits_ptr,
    maxima_ptr,
    sums_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    stride,
    vocab,
    count,
    block: tl.constexpr,
):
    row, index = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature, top_k = tl.load(temperature_ptr + row), tl.load(top_k_ptr + row)
    top_p, min_p = tl.load(top_p_ptr + row), tl.load(min_p_ptr + row)
    if not _truncates(temperature, top_k, top_p, min_p, vocab):
        return
    best, highest, masses = merge_blocks(maxima_ptr, sums_ptr, row, count, temperature)
    bound = _bound(highest, masses, top_k, top_p, min_p, vocab, block)
    place = row * count + index
    if weigh(tl.load(maxima_ptr + place), best, temperature) < bound:
        tl.store(sizes_ptr + place, 0)
        return
    weight = weigh(block_of(logits_ptr + row * stride, index, vocab, block), best, temperature)
    packs = (weight > 0) & (weight >= bound)
    rank = tl.cumsum(packs.to(tl.int32), 0)
    kept = tl.max(rank, 0)
    size = tl.cdiv(kept, _CHUNK)
    tail = kept + tl.arange(0, _CHUNK)
    packed = packed_ptr + place * block
    tl.store(packed + rank - 1, weight, mask=packs)
    tl.store(packed + tail, 0.0, mask=tail < size * _CHUNK)
    tl.store(sizes_ptr + place, size)


@triton.jit
def _bound(highest, masses, top_k, top_p, min_p, vocab, block: tl.constexpr):
    """Lower bound of the row's floor, from per-block maxima and masses.

    It is the highest trial weight that one of the rules proves to be at or below the floor:

    - Top-k: at least k blocks contain a weight that large. This is useless when k exceeds the
      number of blocks.
    - Top-p: the mass that may lie below the trial can be dropped. A block that reaches the trial
      contributes at most `block * trial`, any other block its whole mass.
    - Min-p: the trial is at most min_p.
    """
    trial = tl.exp2(-tl.arange(0, _BOUNDS).to(tl.float32))
    reached = highest[None, :] >= trial[:, None]
    num_reached = tl.sum(reached.to(tl.int32), 1)
    most = tl.minimum(masses[None, :], block * trial[:, None])
    below = tl.sum(tl.where(reached, most, masses[None, :]), 1)
    mass = tl.sum(masses, 0)
    by_rank, by_mass = (top_k > 0) & (top_k < vocab), top_p < 1
    needed = tl.where(by_mass, top_p * mass, float("inf"))
    holds = tl.where(by_rank, num_reached >= top_k, mass - below >= needed)
    # With both top-k and top-p, top-p needs the mass of all tokens that top-k keeps. So top-k alone
    # bounds what is packed then: neither top-p nor min-p may leave out a token that top-k keeps.
    holds = holds | (trial <= tl.where(by_rank & by_mass, 0.0, min_p))
    return tl.max(tl.where(holds, trial, 0.0), 0)


@triton.jit
def _draw_kernel(
    ids_ptr,
    logits_ptr,
    maxima_ptr,
    sums_ptr,
    packed_ptr,
    sizes_ptr,
    chunks_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    seeds_ptr,
    indices_ptr,
    stride,
    vocab,
    count,
    block: tl.constexpr,
):
    row, lane = tl.program_id(0).to(tl.int64), tl.arange(0, MAX_BLOCKS)
    temperature, top_k = tl.load(temperature_ptr + row), tl.load(top_k_ptr + row)
    top_p, min_p = tl.load(top_p_ptr + row), tl.load(min_p_ptr + row)
    best, _, masses = merge_blocks(maxima_ptr, sums_ptr, row, count, temperature)
    floor = tl.full([], 0.0, tl.float32)
    if _truncates(temperature, top_k, top_p, min_p, vocab):
        place = row * count
        sizes = tl.load(sizes_ptr + place + lane, mask=lane < count, other=0)
        packed, chunks = packed_ptr + place * block, chunks_ptr + place * (block // _CHUNK)
        floor, masses = _truncate(packed, chunks, sizes, masses, top_k, top_p, min_p, vocab, block)
    u = _uniform(tl.load(seeds_ptr + row), tl.load(indices_ptr + row))
    # At temperature 0 only the highest logits have weight: u = 0 takes the first of them.
    target = tl.where(temperature == 0, 0.0, u) * tl.sum(masses, 0)
    index = _first_above(masses, target)
    before = tl.sum(tl.where(lane < index, masses, 0.0), 0)
    weight = weigh(block_of(logits_ptr + row * stride, index, vocab, block), best, temperature)
    weight = tl.where(weight >= floor, weight, 0.0)
    token = index * block + _first_above(weight, target - before)
    tl.store(ids_ptr + row, token.to(tl.int64))


@triton.jit
def _truncate(packed, chunks, sizes, masses, top_k, top_p, min_p, vocab, block: tl.constexpr):
    """The floor of a row's weights, and the mass that each block keeps."""
    count = _list_chunks(chunks, sizes, block)
    floor = tl.full([], 0.0, tl.float32)
    if (top_k > 0) & (top_k < vocab):
        floor = _floor_with(packed, chunks, count, top_k.to(tl.float32), by_mass=False)
        masses = _kept_masses(packed, sizes, floor, block)
    if top_p < 1:
        needed = top_p * tl.sum(masses, 0)
        floor = tl.maximum(floor, _floor_with(packed, chunks, count, needed, by_mass=True))
    floor = tl.maximum(floor, min_p)
    return floor, _kept_masses(packed, sizes, floor, block)


@triton.jit
def _list_chunks(chunks, sizes, block: tl.constexpr):
    """List the chunks of a row that hold packed weights, in order; returns their number.

    A walk follows this list because a few blocks may hold most chunks: a walk over all blocks in
    parallel would wait for the longest.
    """
    ends = tl.cumsum(sizes, 0)
    begins, first_of_block = ends - sizes, tl.arange(0, MAX_BLOCKS) * (block // _CHUNK)
    for first in range(0, tl.max(sizes, 0), _CHUNK):
        number = first + tl.arange(0, _CHUNK)[None, :]
        held = number < sizes[:, None]
        tl.store(chunks + begins[:, None] + number, first_of_block[:, None] + number, mask=held)
    tl.debug_barrier()  # the other threads read what one thread wrote
    return tl.max(ends, 0)


@triton.jit
def _floor_with(packed, chunks, count, needed, by_mass: tl.constexpr):
    """The highest floor that keeps `needed` packed weights (or, by mass, weights of that sum).

    0 if all packed weights together do not suffice. A higher floor never gives a larger sum, even
    after rounding, so the search may fix one digit of the floor after the other.
    """
    floor = tl.full([], 0, tl.int32)
    for walk in range(_WALKS):
        # The next two bits of the floor are the number of trials (1, 2, 3 digits) that suffice.
        digit = tl.full([], _TOP_DIGIT, tl.int32) >> (2 * walk)
        once = (floor + digit).to(tl.float32, bitcast=True)
        twice = (floor + 2 * digit).to(tl.float32, bitcast=True)
        thrice = (floor + 3 * digit).to(tl.float32, bitcast=True)
        one = tl.zeros([_STEP, _CHUNK], tl.float32)
        two, three = one, one
        for first in range(0, count, _STEP):
            number = first + tl.arange(0, _STEP)
            chunk = tl.load(chunks + number, mask=number < count, other=0)[:, None]
            place = chunk * _CHUNK + tl.arange(0, _CHUNK)[None, :]
            weight = tl.load(packed + place, mask=(number < count)[:, None], other=0.0)
            amount = weight if by_mass else tl.full(weight.shape, 1.0, tl.float32)
            one += tl.where(weight >= once, amount, 0.0)
            two += tl.where(weight >= twice, amount, 0.0)
            three += tl.where(weight >= thrice, amount, 0.0)
        floor += digit * (tl.sum(one) >= needed).to(tl.int32)
        floor += digit * (tl.sum(two) >= needed).to(tl.int32)
        floor += digit * (tl.sum(three) >= needed).to(tl.int32)
    return floor.to(tl.float32, bitcast=True)


@triton.jit
def _kept_masses(packed, sizes, floor, block: tl.constexpr):
    """For each block the sum of its packed weights at or above the floor."""
    masses = tl.zeros([MAX_BLOCKS], tl.float32)
    for first in range(tl.max(sizes, 0)):
        place = tl.arange(0, MAX_BLOCKS)[:, None] * block + tl.arange(0, _CHUNK)[None, :]
        held = (first < sizes)[:, None]
        weight = tl.load(packed + place + first * _CHUNK, mask=held, other=0.0)
        masses += tl.sum(tl.where(weight >= floor, weight, 0.0), 1)
    return masses


@triton.jit
def _first_above(values, target):
    """The index of the first value above 0 at which the running sum exceeds the target.

    If rounding keeps the sum at or below the target, the index of the last value above 0; 0 if no
    value is above 0.
    """
    place = tl.arange(0, values.shape[0])
    # A parallel scan rounds its sums differently, so the sum may first exceed the target at a 0.
    passed = (values > 0) & (tl.cumsum(values, 0) > target)
    last = tl.max(tl.where(values > 0, place, 0), 0)
    return tl.minimum(tl.min(tl.where(passed, place, _FAR), 0), last)


@triton.jit
def _uniform(seed, index):
    """The same number as `csrc_triton.uniform`, bit for bit."""
    golden = 0x9E3779B97F4A7C15
    key = _mix(seed.to(tl.uint64, bitcast=True) + golden)
    z = _mix(key + (index + 1).to(tl.uint64, bitcast=True) * golden)
    return (z >> 40).to(tl.float32) * 5.9604644775390625e-08  # 2 ** -24


@triton.jit
def _mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)
