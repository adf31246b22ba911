# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Sampling without a sort and without a word from the host: one program per row.

Weights are exp(logit / temperature - maximum), at most 1. Each rule keeps the weights at or above
a floor; positive floats order as their bit patterns do, so a floor is found exactly by bisecting
the 30 bits of [0, 1], one walk along the row for each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048
_BITS_OF_ONE = tl.constexpr(0x3F800000)
_BISECTIONS = tl.constexpr(30)
_MIN_TEMPERATURE = tl.constexpr(1e-6)
_FAR = tl.constexpr(2**31 - 1)


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    indices: Tensor,
) -> Tensor:
    """Launch the kernel; see `csrc_triton.sample`."""
    rows, vocab = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    block = min(triton.next_power_of_2(vocab), _BLOCK)
    _sample_kernel[(rows,)](
        ids,
        logits,
        temperature,
        top_k,
        top_p,
        min_p,
        seeds,
        indices,
        logits.stride(0),
        vocab,
        block=block,
        num_warps=min(max(block // 256, 1), 8),
    )
    return ids


@triton.jit
def _sample_kernel(
    ids_ptr,
    logits_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    seeds_ptr,
    indices_ptr,
    stride,
    vocab,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits = logits_ptr + row * stride
    temperature = tl.load(temperature_ptr + row)
    best, best_id = _maximum(logits, vocab, block)
    if temperature == 0:
        tl.store(ids_ptr + row, best_id.to(tl.int64))
        return
    temperature = tl.maximum(temperature, _MIN_TEMPERATURE)
    # A minimal min_p keeps out the tokens of weight zero.
    floor = tl.maximum(_bits(tl.load(min_p_ptr + row)), 1)
    top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    rank_floor = 0
    if (top_k > 0) & (top_k < vocab):
        rank_floor = _top_k_floor(logits, vocab, best, temperature, top_k, block)
    if top_p < 1:
        mass = _mass_from(logits, vocab, best, temperature, rank_floor, block)
        nucleus = _top_p_floor(logits, vocab, best, temperature, top_p * mass, block)
        rank_floor = tl.maximum(rank_floor, nucleus)
    floor = tl.maximum(floor, rank_floor)
    mass = _mass_from(logits, vocab, best, temperature, floor, block)
    target = _uniform(tl.load(seeds_ptr + row), tl.load(indices_ptr + row)) * mass
    chosen = _inverse_cdf(logits, vocab, best, temperature, floor, target, block)
    tl.store(ids_ptr + row, chosen.to(tl.int64))


@triton.jit
def _maximum(logits, vocab, block: tl.constexpr):
    """The highest logit and the lowest id that has it."""
    best = tl.full([], float("-inf"), tl.float32)
    best_id = tl.full([], 0, tl.int32)
    for start in range(0, vocab, block):
        token = start + tl.arange(0, block)
        x = tl.load(logits + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
        highest = tl.max(x, 0)
        lowest_id = tl.min(tl.where(x == highest, token, _FAR), 0)
        best_id = tl.where(highest > best, lowest_id, best_id)
        best = tl.maximum(best, highest)
    return best, best_id


@triton.jit
def _weights(logits, token, vocab, best, temperature):
    """The weights of some tokens, zero behind the vocabulary's end."""
    x = tl.load(logits + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
    return tl.exp(x / temperature - best / temperature)


@triton.jit
def _bits(weights):
    return weights.to(tl.int32, bitcast=True)


@triton.jit
def _mass_from(logits, vocab, best, temperature, floor, block: tl.constexpr):
    """The sum of the weights at or above the floor (as bits)."""
    mass = tl.full([], 0.0, tl.float32)
    for start in range(0, vocab, block):
        w = _weights(logits, start + tl.arange(0, block), vocab, best, temperature)
        mass += tl.sum(tl.where(_bits(w) >= floor, w, 0.0), 0)
    return mass


@triton.jit
def _top_k_floor(logits, vocab, best, temperature, top_k, block: tl.constexpr):
    """The highest floor at or above which there are top_k weights: the k-th highest weight."""
    low = tl.full([], 0, tl.int32)
    high = tl.full([], _BITS_OF_ONE, tl.int32)
    for _ in range(_BISECTIONS):
        middle = low + (high - low + 1) // 2
        count = tl.full([], 0, tl.int32)
        for start in range(0, vocab, block):
            token = start + tl.arange(0, block)
            w = _weights(logits, token, vocab, best, temperature)
            count += tl.sum(((_bits(w) >= middle) & (token < vocab)).to(tl.int32), 0)
        enough = count >= top_k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    return low


@triton.jit
def _top_p_floor(logits, vocab, best, temperature, target, block: tl.constexpr):
    """The lowest floor above which the weights sum to less than the target."""
    low = tl.full([], 0, tl.int32)
    high = tl.full([], _BITS_OF_ONE, tl.int32)
    for _ in range(_BISECTIONS):
        middle = low + (high - low) // 2
        mass = _mass_from(logits, vocab, best, temperature, middle + 1, block)
        less = mass < target
        low = tl.where(less, low, tl.minimum(middle + 1, high))
        high = tl.where(less, middle, high)
    return low


@triton.jit
def _uniform(seed, index):
    """`csrc_triton.uniform`, bit for bit."""
    golden = 0x9E3779B97F4A7C15
    key = _mix(seed.to(tl.uint64, bitcast=True) + golden)
    z = _mix(key + (index + 1).to(tl.uint64, bitcast=True) * golden)
    return (z >> 40).to(tl.float32) * 5.9604644775390625e-08  # 2 ** -24


@triton.jit
def _mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _inverse_cdf(logits, vocab, best, temperature, floor, target, block: tl.constexpr):
    """The first kept token at which the running sum of the kept weights exceeds the target.

    Where rounding leaves the running sum short, of the block or of the row, the last token kept
    so far is taken.
    """
    before = tl.full([], 0.0, tl.float32)
    chosen = tl.full([], -1, tl.int32)
    last_kept = tl.full([], 0, tl.int32)
    for start in range(0, vocab, block):
        token = start + tl.arange(0, block)
        w = _weights(logits, token, vocab, best, temperature)
        kept = _bits(w) >= floor
        w = tl.where(kept, w, 0.0)
        last_kept = tl.maximum(last_kept, tl.max(tl.where(kept, token, 0), 0))
        after = before + tl.sum(w, 0)
        passed = kept & (tl.cumsum(w, 0) > target - before)
        here = tl.minimum(tl.min(tl.where(passed, token, _FAR), 0), last_kept)
        chosen = tl.where((chosen < 0) & (after > target), here, chosen)
        before = after
    return tl.where(chosen < 0, last_kept, chosen)
