# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Log-probabilities, and the walk over rows of logits in blocks that sampling shares with them.

A weight is exp((logit - maximum) / temperature), at most 1. One launch computes the maximum of
each block and the sum of its weights relative to that maximum. Merging a row's blocks then takes
at most 128 numbers.

Why blocks: 152k fp32 logits are 0.6 MB. One program would walk them in 75 loads that wait for one
another, about 1 µs each. With blocks, at batch 1, 75 programs wait for one load each, all at once.
At batch 256 the time is that of reading 156 MB: 32 µs at 4.8 TB/s.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_BLOCKS = tl.constexpr(128)
_MIN_BLOCK = 512
_MIN_TEMPERATURE = tl.constexpr(1e-6)


class Cut(NamedTuple):
    """How rows are cut into blocks.

    Attributes:
        block: tokens per block.
        blocks: blocks per row, at most `MAX_BLOCKS`.
        warps: warps of a program that holds one block.
    """

    block: int
    blocks: int
    warps: int


def cut_rows(vocab: int) -> Cut:
    """The cut of a vocabulary.

    It depends on the vocabulary alone, because the last bit of a sum depends on its blocks.
    """
    block = max(triton.next_power_of_2(triton.cdiv(vocab, MAX_BLOCKS.value)), _MIN_BLOCK)
    return Cut(block, triton.cdiv(vocab, block), warps=max(block // 512, 4))


def summarize(logits: Tensor, temperature: Tensor | None, cut: Cut) -> tuple[Tensor, Tensor]:
    """fp32 (maxima, sums) [N, blocks] of logits whose rows are contiguous.

    None as temperature means 1 for every row.
    """
    rows, vocab = logits.shape
    maxima = torch.empty((rows, cut.blocks), dtype=torch.float32, device=logits.device)
    sums = torch.empty_like(maxima)
    _summary_kernel[(rows, cut.blocks)](
        maxima, sums, logits, temperature, logits.stride(0), vocab, cut.block, num_warps=cut.warps
    )
    return maxima, sums


def token_logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Launch the kernels; see `csrc_triton.token_logprobs`."""
    rows, vocab = logits.shape
    cut = cut_rows(vocab)
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    maxima, sums = summarize(logits, None, cut)
    logprobs = torch.empty(rows, dtype=torch.float32, device=logits.device)
    _logprob_kernel[(rows,)](
        logprobs,
        logits,
        token_ids,
        maxima,
        sums,
        logits.stride(0),
        cut.blocks,
        num_warps=1,
    )
    return logprobs


@triton.jit
def _summary_kernel(
    maxima_ptr, sums_ptr, logits_ptr, temperature_ptr, stride, vocab, block: tl.constexpr
):
    row, index = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature = tl.full([], 1.0, tl.float32)
    if temperature_ptr is not None:
        temperature = tl.load(temperature_ptr + row)
    x = block_of(logits_ptr + row * stride, index, vocab, block)
    top = tl.max(x, 0)
    place = row * tl.num_programs(1) + index
    tl.store(maxima_ptr + place, top)
    tl.store(sums_ptr + place, tl.sum(weigh(x, top, temperature), 0))


@triton.jit
def _logprob_kernel(logprobs_ptr, logits_ptr, token_ids_ptr, maxima_ptr, sums_ptr, stride, count):
    row = tl.program_id(0).to(tl.int64)
    one = tl.full([], 1.0, tl.float32)
    best, _, masses = merge_blocks(maxima_ptr, sums_ptr, row, count, one)
    x = tl.load(logits_ptr + row * stride + tl.load(token_ids_ptr + row)).to(tl.float32)
    tl.store(logprobs_ptr + row, x - best - tl.log(tl.sum(masses, 0)))


@triton.jit
def block_of(logits, index, vocab, block: tl.constexpr):
    """One block of a row in fp32, -inf behind the vocabulary's end."""
    token = index * block + tl.arange(0, block)
    return tl.load(logits + token, mask=token < vocab, other=float("-inf")).to(tl.float32)


@triton.jit
def weigh(x, top, temperature):
    """exp((x - top) / temperature); at temperature 0 its limit: 1 where x is the top, else 0.

    -inf weighs nothing, even if the top is -inf too (-inf - (-inf) would be nan). A NaN stays one.
    """
    weight = tl.exp((x - top) / tl.maximum(temperature, _MIN_TEMPERATURE))
    weight = tl.where(temperature == 0, (x == top).to(tl.float32), weight)
    return tl.where(x == float("-inf"), 0.0, weight)


@triton.jit
def merge_blocks(maxima_ptr, sums_ptr, row, count, temperature):
    """The row's maximum, and for each block its highest weight and the sum of its weights."""
    lane = tl.arange(0, MAX_BLOCKS)
    place, inside = row * count + lane, lane < count
    tops = tl.load(maxima_ptr + place, mask=inside, other=float("-inf"))
    best = tl.max(tops, 0)
    highest = weigh(tops, best, temperature)
    return best, highest, highest * tl.load(sums_ptr + place, mask=inside, other=0.0)
