# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Merges the partial results of rows, by the logs of their softmax denominators."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

# A program holds this many numbers of a few partials at once, or of many.
_FEW, _MANY = 2048, 8192


def launch_merge(
    partial_out: Tensor,
    partial_lse: Tensor,
    ranges: Tensor,
    ids: Tensor,
    sinks: Tensor | None,
    out: Tensor,
) -> None:
    """Merge the partials of each row into its place in `out`.

    Args:
        partial_out: fp32 [entries, Hq, D].
        partial_lse: fp32 [entries, Hq].
        ranges: int32 [rows, 2]; a row merges the entries `ids[begin:end]`, in this order. A row
            with a begin of -1 stays as it is.
        ids: int32.
        sinks: fp32 [Hq], or None.
        out: contiguous [rows, Hq, D].
    """
    _, num_q_heads, head_dim = partial_out.shape
    block_d = triton.next_power_of_2(head_dim)
    _reduce_kernel[(ranges.shape[0] * num_q_heads,)](
        out,
        partial_out,
        partial_lse,
        ranges,
        ids,
        None if sinks is None else sinks.contiguous(),
        num_heads=num_q_heads,
        head_dim=head_dim,
        few=_FEW // block_d,
        many=_MANY // block_d,
        block_d=block_d,
        num_warps=4,
    )


@triton.jit(do_not_specialize_on_alignment=["ranges_ptr", "partial_ids_ptr"])
def _reduce_kernel(
    out_ptr,
    partial_out_ptr,
    partial_lse_ptr,
    ranges_ptr,
    partial_ids_ptr,
    sinks_ptr,
    num_heads: tl.constexpr,
    head_dim: tl.constexpr,
    few: tl.constexpr,
    many: tl.constexpr,
    block_d: tl.constexpr,
):
    row, head = tl.program_id(0) // num_heads, tl.program_id(0) % num_heads
    begin, end = tl.load(ranges_ptr + 2 * row), tl.load(ranges_ptr + 2 * row + 1)
    if begin < 0:
        return
    partials = (partial_out_ptr, partial_lse_ptr, partial_ids_ptr)
    # Finite from the start, so that an empty partial (-inf) weighs exp(-inf) = 0, never nan.
    top = tl.full([], -3.0e38, tl.float32)
    total = tl.full([], 0.0, tl.float32)
    acc = tl.zeros([block_d], tl.float32)
    if sinks_ptr is not None:  # a token without a value; -inf counts nothing
        sink = tl.load(sinks_ptr + head)
        top = tl.maximum(top, sink)
        total = tl.exp(sink - top)
    # Most rows have few partials. The many partials of a long context are read in larger blocks.
    if end - begin <= few:
        top, total, acc = _merge(
            (top, total, acc), partials, begin, end, head, num_heads, head_dim, few, block_d
        )
    else:
        for first in range(begin, end, many):
            top, total, acc = _merge(
                (top, total, acc), partials, first, end, head, num_heads, head_dim, many, block_d
            )
    out = acc / tl.where(total > 0, total, 1.0)
    dims = tl.arange(0, block_d)
    place = tl.program_id(0).to(tl.int64) * head_dim + dims
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=dims < head_dim)


@triton.jit
def _merge(
    state,
    partials,
    first,
    end,
    head,
    num_heads: tl.constexpr,
    head_dim: tl.constexpr,
    block_p: tl.constexpr,
    block_d: tl.constexpr,
):
    """Merge the next block of one head's partials into (maximum, denominator, numerator)."""
    top, total, acc = state
    out_ptr, lse_ptr, ids_ptr = partials
    place = first + tl.arange(0, block_p)
    there = place < end
    place = tl.load(ids_ptr + place, mask=there, other=0).to(tl.int64) * num_heads + head
    lse = tl.load(lse_ptr + place, mask=there, other=float("-inf"))
    dims = tl.arange(0, block_d)
    out = tl.load(
        out_ptr + place[:, None] * head_dim + dims[None, :],
        mask=there[:, None] & (dims < head_dim)[None, :],
        other=0.0,
    )
    new_top = tl.maximum(top, tl.max(lse, 0))
    shrink, weights = tl.exp(top - new_top), tl.exp(lse - new_top)
    total = total * shrink + tl.sum(weights, 0)
    return new_top, total, acc * shrink + tl.sum(weights[:, None] * out, 0)
