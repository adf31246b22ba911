"""Plain-torch references: the formulas that the kernels are tested against.

Functions of the same names in `csrc_triton` state the contracts (shapes, dtypes, errors); on CPU
tensors they run the code here. `uniform` has no kernel and is public as it is. Attention has a file
of its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from csrc_triton.checks import Gate
from csrc_triton.reference_attention import decode_attention as decode_attention
from csrc_triton.reference_attention import (
    decode_attention_partials as decode_attention_partials,
)
from csrc_triton.reference_attention import merge_states as merge_states
from csrc_triton.reference_attention import prefill_attention as prefill_attention
from csrc_triton.reference_attention import reduce_partials as reduce_partials


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """The product x / sqrt(mean(x²) + eps) * weight, rounded where transformers rounds."""
    if residual is None:
        return _normed(x, weight, eps)
    x = x + residual
    return _normed(x, weight, eps), x


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if x.dtype == torch.float32:  # no intermediate is rounded, so the fused function is the same
        return F.rms_norm(x, weight.shape, weight, eps)
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    # Rounded to x's dtype before the weight, or only behind it if the weight is fp32.
    return (weight * wide.to(weight.dtype)).to(x.dtype)


def gated_activation(gate_up: Tensor, gate: Gate) -> Tensor:
    """f(g) * u; f(g) is rounded to the dtype before the product, as in transformers."""
    gates, up = gate_up.chunk(2, dim=-1)
    return (F.silu(gates) if gate == "silu" else F.gelu(gates, approximate="tanh")) * up


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
) -> Tensor:
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
    return q


def _rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    wide = x.float()
    swapped = wide.roll(wide.shape[-1] // 2, dims=-1)
    return torch.addcmul(wide * cos, swapped, signed_sin).to(x.dtype)


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
