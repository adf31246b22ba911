"""Kernels as pure functions on tensors: Triton on a GPU, plain torch elsewhere.

Every function dispatches by the device of its tensors. CUDA tensors go to the Triton kernel, all
others to the plain-torch reference that the kernel is tested against. Triton is imported at the
first CUDA call, so the package works without triton. Shapes use N rows (query tokens), Hq query
heads, Hkv kv heads (Hq is a multiple of Hkv) and D, the head dim. A kernel takes fp32, fp16 and
bf16, computes in fp32 and rounds as the reference does. It raises ValueError for inputs that a GPU
would refuse.

Keys and values live in pages: `k_cache` and `v_cache` are [num_pages, page_size, Hkv, D]. Their
strides are those of `cache_views`: the kernels of a device read one layout, the references any. The
flat slot of a token is `page * page_size + offset`; kernels need page sizes that divide 16.
`csrc_triton.worklist` describes how a caller says which tokens each row attends to. Slots,
positions, pages, rows and token ids must lie within their tensors: a kernel does not check them.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, overload

import torch
from torch import Tensor

from csrc_triton.checks import check_heads, check_norms, check_sinks, check_window, require
from csrc_triton.cpu import linear
from csrc_triton.cpu.library import library
from csrc_triton.pages import cache_views as cache_views
from csrc_triton.reference import merge_states as merge_states
from csrc_triton.reference import uniform as uniform
from csrc_triton.worklist import PagedSpan, PrefillPlan, WorkList

__all__ = [
    "PagedSpan",
    "PrefillPlan",
    "WorkList",
    "cache_views",
    "decode_attention",
    "decode_attention_partials",
    "has_cpu_kernels",
    "merge_states",
    "pack_weight",
    "packed_linear",
    "prefill_attention",
    "reduce_partials",
    "rms_norm",
    "rope_and_cache",
    "sample",
    "swiglu",
    "token_logprobs",
    "uniform",
]


@overload
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor: ...
@overload
def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor) -> tuple[Tensor, Tensor]: ...
def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Normalise the last dim by its root mean square, optionally after adding a residual.

    Args:
        x: [..., D]; over [N, H, D] it is the qk-norm of Qwen3.
        weight: [D], of x's dtype.
        eps: added to the mean square.
        residual: shaped like x.

    Returns:
        y like x; with a residual `(y, x + residual)`. The sum is rounded to x's dtype before it is
        normalised. The statistics are fp32, and y is rounded before it is multiplied by the
        weight. This is the arithmetic of transformers' Qwen2RMSNorm.

    Raises:
        ValueError: shapes disagree.
    """
    require(weight.shape == x.shape[-1:], "weight {} for x {}", weight.shape, x.shape)
    require(residual is None or residual.shape == x.shape, "residual must be shaped like x")
    normed: Tensor | tuple[Tensor, Tensor]
    normed = implementation(x, "norm").rms_norm(x, weight, eps, residual)
    return normed


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for gate_up [..., 2F], whose first half is the gate -> [..., F].

    Raises:
        ValueError: the last dim is odd.
    """
    require(gate_up.shape[-1] % 2 == 0, "gate_up must have an even last dim: {}", gate_up.shape)
    activated: Tensor = implementation(gate_up, "activation").swiglu(gate_up)
    return activated


def rope_and_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    *,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Rotate q and k to their positions; store the rotated k and the plain v in their pages.

    With norms, each head of q and k goes through `rms_norm` first: the qk-norm of Qwen3.

    Args:
        q: [N, Hq, D]. The rotation pairs dim i with dim i + D/2 (GPT-NeoX, Hugging Face), in fp32.
        k: [N, Hkv, D].
        v: [N, Hkv, D].
        cos_sin: fp32 [P, D]. Row p holds the cosines of position p's D/2 angles, then the sines.
            The factor of the rope scaling, if it has one, is already multiplied in.
        positions: int64 [N], 0 <= position < P.
        k_cache: written at `slot_mapping`.
        v_cache: written at `slot_mapping`.
        slot_mapping: int64 [N], distinct flat slots; -1 stores nothing (padding rows).
        q_norm: [D], of q's dtype; the weight of the norm of q. None: no norm.
        k_norm: [D], of k's dtype; None exactly if q_norm is None.
        eps: that of both norms.

    Returns:
        (rotated q, rotated k), new tensors of the dtype of q and k.

    Raises:
        ValueError: shapes disagree, or one norm comes without the other.
    """
    check_heads(q, k_cache, v_cache)
    rows, head_dim = q.shape[0], q.shape[2]
    stored = (rows, *k_cache.shape[2:])
    require(k.shape == stored == v.shape, "k {} and v {} must be {}", k.shape, v.shape, stored)
    require(cos_sin.shape[1:] == (head_dim,), "cos_sin {} for head dim {}", cos_sin.shape, head_dim)
    require(
        positions.shape == slot_mapping.shape == (rows,), "positions and slots for {} rows", rows
    )
    check_norms(head_dim, q_norm, k_norm)
    rotated: tuple[Tensor, Tensor] = implementation(q, "rope").rope_and_cache(
        q, k, v, cos_sin, positions, k_cache, v_cache, slot_mapping, q_norm, k_norm, eps
    )
    return rotated


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    work: WorkList,
    scale: float,
    *,
    window: int | None = None,
    positions: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention of one query token per sequence over all its spans: [N, Hq, D] like q.

    This is `decode_attention_partials` followed by `reduce_partials`: always two launches, however
    many spans are shared.
    """
    partials = decode_attention_partials(
        q, k_cache, v_cache, work, scale, window=window, positions=positions
    )
    return reduce_partials(*partials, work, q.dtype, sinks=sinks)


def decode_attention_partials(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    work: WorkList,
    scale: float,
    *,
    window: int | None = None,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of each entry of the work list over its item's tokens, not merged yet.

    Args:
        q: [N, Hq, D], N = work.num_rows.
        k_cache: of q's dtype; the keys of this step's tokens must be stored already.
        v_cache: of q's dtype; the values of this step's tokens must be stored already.
        work: which rows attend to which tokens.
        scale: multiplies q·k, positive, usually D ** -0.5.
        window: a row at position p sees a token at position x only if p - x < window; it sees every
            token behind it. This is transformers' sliding window. A token that a row does not see
            has no effect on it, even if its keys and values are NaN. None: a row sees all tokens of
            its items.
        positions: int64 [N], the position of each row. Only a window reads and needs it.

    Returns:
        fp32 (out [max_entries, Hq, D], lse [max_entries, Hq]): softmax attention over the tokens of
        the entry's item that its row sees, and the natural log of the denominator. An entry that
        sees no token is 0 and -inf. Entries outside every item are unspecified.

    Raises:
        ValueError: shapes disagree, window < 1, or a window comes without positions.
    """
    check_heads(q, k_cache, v_cache)
    rows = q.shape[:1]
    require(rows[0] == work.num_rows, "q has {} rows, the work list {}", rows[0], work.num_rows)
    check_window(window)
    require(window is None or positions is not None, "a window needs positions")
    require(positions is None or positions.shape == rows, "positions for {} rows", rows[0])
    partials: tuple[Tensor, Tensor] = implementation(q, "decode").decode_attention_partials(
        q, k_cache, v_cache, work, scale, window, positions
    )
    return partials


def reduce_partials(
    partial_out: Tensor,
    partial_lse: Tensor,
    work: WorkList,
    dtype: torch.dtype,
    *,
    sinks: Tensor | None = None,
) -> Tensor:
    """Merge each row's partials, in the work list's order -> [work.num_rows, Hq, D] of `dtype`.

    The partials are those that `decode_attention_partials` returned for the same work list. Empty
    partials change nothing; a row without partials is zero.

    Args:
        partial_out: fp32 [max_entries, Hq, D].
        partial_lse: fp32 [max_entries, Hq].
        work: the work list of the partials.
        dtype: of the result.
        sinks: fp32 [Hq], one logit per head: the softmax of every row counts e^sink in its
            denominator, once, without a value (GPT-OSS). -inf counts nothing.

    Raises:
        ValueError: sinks are not fp32 [Hq].
    """
    check_sinks(sinks, partial_out.shape[1])
    out: Tensor = implementation(partial_out, "decode").reduce_partials(
        partial_out, partial_lse, work, dtype, sinks
    )
    return out


def prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: PrefillPlan,
    scale: float,
    *,
    window: int | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention of several segments' chunks over their contexts and, causally, themselves.

    Args:
        q: [N, Hq, D], the rows of all chunks, one chunk behind the other.
        k_cache: of q's dtype; the keys of the chunks' own tokens must be stored already.
        v_cache: of q's dtype; the values of the chunks' own tokens must be stored already.
        plan: which rows belong to which segment, and the context of each segment.
        scale: multiplies q·k, positive, usually D ** -0.5.
        window: as in `decode_attention_partials`, for the context and the chunk's own segment; the
            plan holds the positions.
        sinks: as in `reduce_partials`.

    Returns:
        [N, Hq, D] like q.

    Raises:
        ValueError: shapes disagree, window < 1, or sinks are not fp32 [Hq].
    """
    check_heads(q, k_cache, v_cache)
    check_window(window)
    check_sinks(sinks, q.shape[1])
    out: Tensor = implementation(q, "prefill").prefill_attention(
        q, k_cache, v_cache, plan, scale, window, sinks
    )
    return out


def has_cpu_kernels(dtype: torch.dtype) -> bool:
    """Whether CPU tensors of a dtype go to compiled kernels; the first call compiles them.

    They are there for fp32 and bf16, unless they cannot be compiled: then one warning says why.
    """
    return library(dtype) is not None


def pack_weight(weight: Tensor, *, gated: bool = False) -> Tensor:
    """A weight [out, in] on a CPU as `packed_linear` reads it: [blocks, in, 16].

    A gated one has gates in its first half: [2 F, in].
    """
    return linear.pack_weight(weight, gated)


def packed_linear(
    x: Tensor, packed: Tensor, bias: Tensor | None, outputs: int, *, gated: bool = False
) -> Tensor:
    """The product x Wᵀ + b with a packed weight, on a CPU; if gated, silu(x Gᵀ) * (x Uᵀ).

    The bits of a row depend neither on the other rows nor on their number.

    Args:
        x: [..., in].
        packed: what `pack_weight` made, with the same `gated`, of x's dtype.
        bias: [outputs] or None; a gated weight has none.
        outputs: the last dim of the result: out, or F of a gated weight.
        gated: apply SwiGLU behind the product.

    Returns:
        [..., outputs] like x.

    Raises:
        ValueError: shapes or dtypes disagree, or there are no CPU kernels for x's dtype.
    """
    require(packed.dim() == 3 and x.shape[-1] == packed.shape[1], "x {}, packed {}", x, packed)
    size = -(-outputs // packed.shape[2]) * (2 if gated else 1)
    require(size == packed.shape[0], "{} outputs of {} blocks", outputs, packed.shape[0])
    require(packed.dtype == x.dtype, "packed is {}, x is {}", packed.dtype, x.dtype)
    if bias is not None:
        fits = bias.shape == (outputs,) and bias.dtype == x.dtype and not gated
        require(fits, "bias {} {} for {} outputs, gated {}", bias.dtype, bias.shape, outputs, gated)
    return linear.linear(x, packed, bias, outputs, gated)


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    indices: Tensor,
) -> Tensor:
    """Draw one token per row. A row's token depends on that row's arguments alone.

    softmax(logits / temperature) is truncated by top-k, then by top-p among the tokens that top-k
    kept, then by min-p. One number, `uniform(seed, index)`, then goes through the inverse CDF in
    the order of token ids. A token tied with the last one kept is kept as well. The token drawn
    always has a probability above zero; a token whose logit is -inf is never drawn. If a row holds
    a NaN or +inf, or nothing above -inf, the token is unspecified but a valid id.

    Args:
        logits: [N, V], any float dtype; computed in fp32.
        temperature: fp32 [N]; 0 takes the highest logit, the lowest id among equals. Other values
            below 1e-6 count as 1e-6.
        top_k: int64 [N]; keep only the k most probable tokens. 0: off.
        top_p: fp32 [N], above 0; keep the most probable tokens until they hold this mass. 1: off.
        min_p: fp32 [N]; keep tokens at least this times as probable as the most probable. 0: off.
        seeds: int64 [N], one per stream.
        indices: int64 [N], the index of this token among its stream's generated tokens.

    Returns:
        int64 [N] token ids.

    Raises:
        ValueError: shapes disagree.
    """
    require(logits.dim() == 2 and logits.shape[1] > 0, "logits must be [N, V]: {}", logits.shape)
    per_row = (temperature, top_k, top_p, min_p, seeds, indices)
    require(all(x.shape == logits.shape[:1] for x in per_row), "one parameter of each kind per row")
    ids: Tensor = implementation(logits, "sampling").sample(logits, *per_row)
    return ids


def token_logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """The log of the softmax, at temperature 1, at one token per row.

    Args:
        logits: [N, V], any float dtype; computed in fp32.
        token_ids: int64 [N], 0 <= id < V.

    Returns:
        fp32 [N]; not finite if the row holds a NaN or +inf, or if the token's logit is -inf.

    Raises:
        ValueError: shapes disagree.
    """
    require(logits.dim() == 2 and logits.shape[1] > 0, "logits must be [N, V]: {}", logits.shape)
    require(token_ids.shape == logits.shape[:1], "one token per row: {}", token_ids.shape)
    logprobs: Tensor = implementation(logits, "logprobs").token_logprobs(logits, token_ids)
    return logprobs


def implementation(tensor: Tensor, module: str) -> Any:
    """The module that computes on a tensor's device: Triton on a GPU, C on a CPU."""
    return _module(module if tensor.is_cuda else f"cpu.{module}")


@cache
def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name}")
