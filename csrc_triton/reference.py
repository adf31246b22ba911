"""Plain-torch references: the formulas that the kernels are tested against.

Functions of the same names in `csrc_triton` state the contracts (shapes, dtypes, errors); on CPU
tensors they run the code here. `merge_states` and `uniform` have no kernel and are public as they
are. Only attention loops over rows in Python.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from csrc_triton.worklist import PrefillPlan, WorkList


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """The product x / sqrt(mean(x²) + eps) * weight, rounded where Qwen2RMSNorm rounds."""
    if residual is None:
        return _normed(x, weight, eps)
    x = x + residual
    return _normed(x, weight, eps), x


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if x.dtype == torch.float32:  # no intermediate is rounded, so the fused function is the same
        return F.rms_norm(x, weight.shape, weight, eps)
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up; silu is rounded to the dtype before the product, as in transformers."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rope_and_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Half rotation of GPT-NeoX: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin); then the store."""
    q = q if q_norm is None else _normed(q, q_norm, eps)
    k = k if k_norm is None else _normed(k, k_norm, eps)
    cos, sin = cos_sin[positions].unsqueeze(1).chunk(2, dim=-1)
    cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
    q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    slots, keys, values = slot_mapping, k, v
    stored = slots >= 0
    if not bool(stored.all()):
        slots, keys, values = slots[stored], k[stored], v[stored]
    place = slots // k_cache.shape[1], slots % k_cache.shape[1]
    k_cache[place], v_cache[place] = keys, values
    return q, k


def _rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    wide = x.float()
    swapped = wide.roll(wide.shape[-1] // 2, dims=-1)
    return torch.addcmul(wide * cos, swapped, signed_sin).to(x.dtype)


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
    begins, counts = work.partial_offsets[:-1], work.partial_offsets.diff()
    out = partial_out.new_zeros((work.num_rows, *partial_out.shape[1:]))
    lse = partial_lse.new_full((work.num_rows, *partial_lse.shape[1:]), -math.inf)
    if sinks is not None:
        lse[:] = sinks
    for i in range(max(counts.tolist(), default=0)):
        has_more = i < counts
        entry = work.partial_ids[torch.where(has_more, begins + i, 0)]
        lse_i = torch.where(has_more.unsqueeze(-1), partial_lse[entry], -math.inf)
        out, lse = merge_states(out, lse, partial_out[entry], lse_i)
    return out.to(dtype)


def prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: PrefillPlan,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Per segment: itself under the causal mask, then its context's spans, then the sinks."""
    out = torch.empty_like(q)
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


# The constants of splitmix64. It is computed in numpy, whose 64-bit words are unsigned.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
Words = npt.NDArray[np.uint64]


def uniform(seeds: Tensor, indices: Tensor) -> Tensor:
    """One number per row in [0, 1) that depends on (seed, index) alone; no state.

    u = (h >> 40) / 2**24 with h = mix(mix(seed + golden) + (index + 1) * golden) in wrapping
    64-bit arithmetic. This is number `index` of the splitmix64 generator that starts at mix(seed +
    golden), where golden = 0x9E3779B97F4A7C15 and mix(z) is, with logical shifts,

        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9
        z = (z ^ z >> 27) * 0x94D049BB133111EB
        z ^ z >> 31

    (Steele, Lea and Flood, OOPSLA 2014; the constants are Stafford's variant 13). The seed is
    mixed on its own first. Otherwise seeds that differ by a multiple of golden would draw the same
    numbers, shifted.

    Args:
        seeds: int64 [N], any value.
        indices: int64 [N].

    Returns:
        fp32 [N].
    """
    keys = _mix(_words(seeds) + _GOLDEN)
    hashed = _mix(keys + (_words(indices) + np.uint64(1)) * _GOLDEN)
    numbers = torch.from_numpy((hashed >> np.uint64(40)).astype(np.float32))
    return numbers.to(seeds.device) * 2.0**-24


def _words(x: Tensor) -> Words:
    return x.cpu().numpy().view(np.uint64)


def _mix(z: Words) -> Words:
    z = (z ^ z >> np.uint64(30)) * _MIX_1
    z = (z ^ z >> np.uint64(27)) * _MIX_2
    mixed: Words = z ^ z >> np.uint64(31)
    return mixed


# Truncation sorts the whole row only if the `_HEAD` most probable tokens do not decide it.
_HEAD = 512
# The inverse CDF sums blocks of this many tokens first, then the tokens of one block.
_CDF_BLOCK = 512
# Keeps logits / temperature finite; a lower temperature is indistinguishable from greedy.
_MIN_TEMPERATURE = 1e-6


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    indices: Tensor,
) -> Tensor:
    """Softmax, truncate the rows that ask for it, then one uniform through the inverse CDF."""
    greedy = temperature == 0
    if bool(greedy.all()):
        return logits.argmax(-1)
    divisor = torch.where(greedy, 1.0, temperature.clamp_min(_MIN_TEMPERATURE))
    scaled = logits.float() / divisor.unsqueeze(-1)
    probs = torch.softmax(scaled, -1, out=scaled)  # in place: fresh memory costs as much as softmax
    truncated = ~greedy & ((top_k > 0) | (top_p < 1) | (min_p > 0))
    if bool(truncated.any()):
        rows = truncated.nonzero().squeeze(1)
        floor = torch.zeros_like(probs[:, 0])
        floor[rows] = _floor(probs[rows], top_k[rows], top_p[rows], min_p[rows], _HEAD)
        probs.mul_(probs >= floor.unsqueeze(-1))
    ids = _inverse_cdf(probs, uniform(seeds, indices))
    return torch.where(greedy, logits.argmax(-1), ids) if bool(greedy.any()) else ids


def _floor(probs: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, depth: int) -> Tensor:
    """The least probability that each row keeps, found among its `depth` highest.

    Every rule keeps the tokens at or above some probability; the floor is the highest of these
    bounds. If the floor of a row may lie below its `depth` highest, the whole row is sorted. This
    is rare because real nuclei are small, and sorting a vocabulary of 150k costs twenty times more
    than finding its 512 highest.
    """
    vocab = probs.shape[-1]
    depth = min(depth, vocab)
    values = probs.topk(depth).values
    mass = values.cumsum(-1)
    k = torch.where(top_k > 0, top_k, vocab).clamp_max(vocab)
    kth = torch.where(k <= depth, _pick(values, k.clamp_max(depth)), 0.0)
    # top-p takes its share of the mass that top-k kept, including ties with the k-th token.
    kept_mass = torch.where(k < vocab, _pick(mass, (values >= kth[:, None]).sum(-1)), 1.0)
    # A token stays if the tokens before it hold less than top_p; the first one always stays.
    stays = mass[:, :-1] < (top_p * kept_mass)[:, None]
    nucleus = torch.where(top_p < 1, _pick(values, 1 + stays.sum(-1)), 0.0)
    floor = torch.maximum(torch.maximum(kth, nucleus), min_p * values[:, 0])
    # Deeper: the k-th token is outside the head, or the floor is its last value and may be lower.
    deeper = (k > depth) & (k < vocab) | (floor > 0) & (floor <= values[:, -1])
    if depth < vocab and bool(deeper.any()):
        floor[deeper] = _floor(probs[deeper], top_k[deeper], top_p[deeper], min_p[deeper], vocab)
    return floor


def _pick(rows: Tensor, count: Tensor) -> Tensor:
    """The count-th value of each row; counts start at 1."""
    place = (count - 1).clamp_min(0)  # a row of NaNs counts 0: no comparison is true
    return rows.gather(1, place.unsqueeze(1)).squeeze(1)


def _inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """The token at which each row's running sum passes u * total: first its block, then itself."""
    rows, vocab = weights.shape
    size = _CDF_BLOCK
    if vocab <= size:
        sums = weights.cumsum(-1)
        return _first_above(sums, u * sums[:, -1])
    whole = vocab - vocab % size
    blocks = weights[:, :whole].view(rows, -1, size).sum(-1)
    sums = torch.cat((blocks, weights[:, whole:].sum(-1, keepdim=True)), 1).cumsum(-1)
    target = u * sums[:, -1]
    block = _first_above(sums, target)
    before = torch.where(block > 0, _pick(sums, block.clamp_min(1)), 0.0)
    # The window has one block's size. The last block may be shorter: then its window begins in the
    # block before, and those lanes are set to zero.
    start = block * size
    window = start.clamp_max(vocab - size).unsqueeze(1)
    lanes = window + torch.arange(size, device=weights.device)
    inside = weights.gather(1, lanes)
    inside.masked_fill_(lanes < start.unsqueeze(1), 0.0)
    return window.squeeze(1) + _first_above(inside.cumsum(-1), target - before)


def _first_above(sums: Tensor, target: Tensor) -> Tensor:
    """First index where ascending sums exceed the target, or else reach their final value.

    In both cases the sum rises at that index, so rounding cannot select an index without weight.
    """
    below_final = torch.nextafter(sums[:, -1], torch.zeros_like(target))
    place = torch.searchsorted(sums, target.minimum(below_final)[:, None], right=True).squeeze(1)
    return place.clamp_max(sums.shape[1] - 1)  # searchsorted puts a NaN behind the end


def token_logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """log_softmax(logits) at the given tokens, without a tensor of all log-probabilities."""
    return -F.cross_entropy(logits.float(), token_ids, reduction="none")
