"""Attention in plain torch, over caches of any strides; see `reference`.

Only this reference loops in Python: over the items of a work list, and the segments of a plan.
`merge_states` has no kernel and is public as it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from csrc_triton.worklist import PrefillPlan, WorkList


def merge_states(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor
) -> tuple[Tensor, Tensor]:
    """Merge attention over two disjoint sets of tokens into attention over both.

    out = (e^lse_a out_a + e^lse_b out_b) / e^lse with lse = log(e^lse_a + e^lse_b): the merge of
    online softmax (Milakov and Gimelshein, arXiv 1805.02867). If one side has no tokens
    (lse = -inf), the result is the other side bit for bit. Two such sides give zero and -inf.

    Args:
        out_a: fp32 [..., D].
        lse_a: fp32 [...], the natural log of the softmax denominator.
        out_b: like out_a.
        lse_b: like lse_a.

    Returns:
        (out, lse), shaped like the inputs.
    """
    # Not torch.logaddexp: on a CPU its last bit depends on the element's index in the tensor.
    lse = torch.logsumexp(torch.stack((lse_a, lse_b), dim=-1), dim=-1)
    finite = torch.where(lse.isneginf(), 0.0, lse)  # -inf - (-inf) would be nan
    weight_a = torch.exp(lse_a - finite).unsqueeze(-1)
    weight_b = torch.exp(lse_b - finite).unsqueeze(-1)
    return weight_a * out_a + weight_b * out_b, lse


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    work: WorkList,
    scale: float,
    window: int | None,
    positions: Tensor | None,
    sinks: Tensor | None,
    out: Tensor,
) -> None:
    """Partial results and their merge, into `out`."""
    partials = decode_attention_partials(q, k_cache, v_cache, work, scale, window, positions)
    out.copy_(reduce_partials(*partials, work, q.dtype, sinks))


def decode_attention_partials(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    work: WorkList,
    scale: float,
    window: int | None = None,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention of each item's rows over its tokens, and the log of its denominator."""
    entries = work.row_ids.shape[0]
    out = q.new_zeros((entries, *q.shape[1:]), dtype=torch.float32)
    lse = q.new_full((entries, q.shape[1]), -math.inf, dtype=torch.float32)
    for begin, end, *span, position in work.items[: int(work.num_items)].tolist():
        rows = work.row_ids[begin:end]
        hidden = None
        if positions is not None and window is not None:
            hidden = _outside(window, positions[rows], position, *span[1:])
        tokens = _gather(k_cache, v_cache, work.page_table, *span)
        out[begin:end], lse[begin:end] = _attend(q[rows], *tokens, scale, hidden)
    return out, lse


def reduce_partials(
    partial_out: Tensor,
    partial_lse: Tensor,
    work: WorkList,
    dtype: torch.dtype,
    sinks: Tensor | None = None,
) -> Tensor:
    """Fold `merge_states` over each row's partials in their order, all rows side by side."""
    # Round i merges the i-th partial of every row that has one; other rows merge an empty one.
    begins, ends = work.partial_ranges.unbind(1)
    counts = ends - begins
    out = partial_out.new_zeros((work.num_rows, *partial_out.shape[1:]))
    lse = partial_lse.new_full((work.num_rows, *partial_lse.shape[1:]), -math.inf)
    if sinks is not None:
        lse[:] = sinks
    for i in range(max(counts.tolist(), default=0)):
        has_more = i < counts
        entry = work.partial_ids[torch.where(has_more, begins + i, 0)]
        lse_i = torch.where(has_more[:, None], partial_lse[entry], -math.inf)
        out_i = torch.where(has_more[:, None, None], partial_out[entry], 0.0)
        out, lse = merge_states(out, lse, out_i, lse_i)
    return out.to(dtype)


def prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: PrefillPlan,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Per segment: itself under the causal mask, then its context's spans, then the sinks."""
    out = torch.empty_like(q) if out is None else out
    q_offsets, span_offsets = plan.cu_seqlens_q.tolist(), plan.span_offsets.tolist()
    cache = k_cache, v_cache, plan.page_table
    for s, (page_begin, computed, position) in enumerate(plan.own.tolist()):
        begin, end = q_offsets[s : s + 2]
        rows, total = q[begin:end], computed + end - begin
        tokens = torch.arange(total, device=q.device)
        positions = position + tokens[computed:]
        hidden = tokens > tokens[computed:].unsqueeze(-1)
        if window is not None:
            hidden |= _outside(window, positions, position, 0, total)
        state = _attend(rows, *_gather(*cache, page_begin, 0, total), scale, hidden)
        for *span, position in plan.spans[span_offsets[s] : span_offsets[s + 1]].tolist():
            unseen = None
            if window is not None:
                unseen = _outside(window, positions, position, *span[1:])
            state = merge_states(*state, *_attend(rows, *_gather(*cache, *span), scale, unseen))
        if sinks is not None:
            sink = sinks.expand(len(rows), -1)
            state = merge_states(*state, torch.zeros_like(state[0]), sink)
        out[begin:end] = state[0].to(q.dtype)
    return out


def _gather(
    k_cache: Tensor, v_cache: Tensor, page_table: Tensor, page_begin: int, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Keys and values [tokens, Hkv, D] of tokens start <= t < stop of a page list, in fp32."""
    page_size = k_cache.shape[1]
    tokens = torch.arange(start, stop, device=page_table.device)
    place = page_table[page_begin + tokens // page_size].long(), tokens % page_size
    return k_cache[place].float(), v_cache[place].float()


def _outside(window: int, rows: Tensor, position: int, start: int, stop: int) -> Tensor:
    """[n, tokens]: whether rows at these positions do not see tokens start <= t < stop."""
    tokens = torch.arange(position + start, position + stop, device=rows.device)
    return rows.unsqueeze(-1) - tokens >= window


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, hidden: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows q [n, Hq, D] over the tokens k, v [tokens, Hkv, D], except where `hidden`; fp32.

    A row from which all of [n, tokens] is hidden is 0 and -inf.
    """
    rows, num_q_heads, head_dim = q.shape
    grouped = q.float().view(rows, k.shape[1], -1, head_dim)
    scores = torch.einsum("nhgd,thd->nhgt", grouped, k) * scale
    if hidden is not None:
        scores = scores.masked_fill(hidden[:, None, None], -math.inf)
    lse = scores.logsumexp(-1)
    weights = scores.softmax(-1)
    if hidden is None:
        out = torch.einsum("nhgt,thd->nhgd", weights, v)
    else:
        weights = weights.masked_fill(hidden[:, None, None], 0.0)  # NaN where nothing is seen
        out = _weighted_around_nan(weights, v, ~hidden)
    return out.reshape(rows, num_q_heads, head_dim), lse.reshape(rows, num_q_heads)


def _weighted_around_nan(weights: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Sums of weighted values; values that are not finite count only where they are `seen`.

    A hidden one has a weight of 0, but 0 * NaN is NaN.
    """
    finite = v.isfinite()
    out = torch.einsum("nhgt,thd->nhgd", weights, v.masked_fill(~finite, 0.0))
    if not bool(finite.all()):
        spoilt = torch.einsum("nt,thd->nhd", seen.float(), (~finite).float()) > 0
        out = out.masked_fill(spoilt.unsqueeze(2), math.nan)
    return out
