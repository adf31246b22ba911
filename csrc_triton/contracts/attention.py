"""Rotation, the store into pages, and attention over pages."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton.checks import check_heads, check_norms, check_sinks, check_window, require
from csrc_triton.contracts import dispatch
from csrc_triton.tiling import Tiling
from csrc_triton.worklist import PrefillPlan, WorkList


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
) -> Tensor:
    """Rotate q and k to their positions; store the rotated k and the plain v in their pages.

    With norms, each head of q and k goes through `rms_norm` first: the qk-norm of Qwen3.

    Args:
        q: [N, Hq, D]. The rotation pairs dim i with dim i + D/2 (GPT-NeoX, Hugging Face), in fp32.
        k: [N, Hkv, D].
        v: [N, Hkv, D]. Each of q, k and v may have a row stride of its own.
        cos_sin: fp32 [P, D]. Row p holds the cosines of position p's D/2 angles, then the sines.
            The factor of the rope scaling, if it has one, is already multiplied in.
        positions: int64 [N], 0 <= position < P.
        k_cache: written at `slot_mapping`.
        v_cache: written at `slot_mapping`.
        slot_mapping: int64 [N], distinct flat slots; -1 stores nothing (padding rows).
        q_norm: [D], of q's dtype or fp32; the weight of the norm of q. None: no norm.
        k_norm: [D], of q_norm's dtype; None exactly if q_norm is None.
        eps: that of both norms.

    Returns:
        Rotated q, a new tensor of its dtype. The rotated k is in its pages alone.

    Raises:
        ValueError: shapes or dtypes of norms disagree, or one norm comes without the other.
    """
    check_heads(q, k_cache, v_cache)
    rows, head_dim = q.shape[0], q.shape[2]
    stored = (rows, *k_cache.shape[2:])
    require(k.shape == stored == v.shape, "k {} and v {} must be {}", k.shape, v.shape, stored)
    require(cos_sin.shape[1:] == (head_dim,), "cos_sin {} for head dim {}", cos_sin.shape, head_dim)
    require(
        positions.shape == slot_mapping.shape == (rows,), "positions and slots for {} rows", rows
    )
    check_norms(q, q_norm, k_norm)
    rotated: Tensor = dispatch.implementation(q, "rope").rope_and_cache(
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
    out: Tensor | None = None,
) -> Tensor:
    """Attention of one query token per sequence over all its spans: [N, Hq, D] like q.

    This is `decode_attention_partials` followed by `reduce_partials`: always two launches, however
    many spans are shared. The arguments are theirs. `out`, contiguous and like q, takes the result;
    None makes a new tensor.

    Raises:
        ValueError: as they do, or `out` is not such a tensor.
    """
    _check_decode(q, k_cache, v_cache, work, window, positions)
    check_sinks(sinks, q.shape[1])
    out = _result(q, out)
    dispatch.implementation(q, "decode").decode_attention(
        q, k_cache, v_cache, work, scale, window, positions, sinks, out
    )
    return out


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
    _check_decode(q, k_cache, v_cache, work, window, positions)
    kernels = dispatch.implementation(q, "decode")
    partials: tuple[Tensor, Tensor] = kernels.decode_attention_partials(
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
    out: Tensor = dispatch.implementation(partial_out, "decode").reduce_partials(
        partial_out, partial_lse, work, dtype, sinks
    )
    return out


def prefill_tiling(num_q_heads: int, k_cache: Tensor) -> Tiling | None:
    """How the device's prefill kernel cuts rows into tiles; None if it needs no list of them.

    A plan that is made with it reaches the device in one copy.
    """
    tiling: Tiling | None = dispatch.implementation(k_cache, "prefill").prefill_tiling(
        num_q_heads, k_cache
    )
    return tiling


def prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: PrefillPlan,
    scale: float,
    *,
    window: int | None = None,
    sinks: Tensor | None = None,
    out: Tensor | None = None,
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
        out: as in `decode_attention`.

    Returns:
        [N, Hq, D] like q.

    Raises:
        ValueError: shapes disagree, window < 1, sinks are not fp32 [Hq], or `out` is not like q.
    """
    check_heads(q, k_cache, v_cache)
    check_window(window)
    check_sinks(sinks, q.shape[1])
    out = _result(q, out)
    dispatch.implementation(q, "prefill").prefill_attention(
        q, k_cache, v_cache, plan, scale, window, sinks, out
    )
    return out


def _check_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    work: WorkList,
    window: int | None,
    positions: Tensor | None,
) -> None:
    check_heads(q, k_cache, v_cache)
    rows = q.shape[:1]
    require(rows[0] == work.num_rows, "q has {} rows, the work list {}", rows[0], work.num_rows)
    check_window(window)
    require(window is None or positions is not None, "a window needs positions")
    require(positions is None or positions.shape == rows, "positions for {} rows", rows[0])


def _result(q: Tensor, out: Tensor | None) -> Tensor:
    """The tensor that a result goes to."""
    if out is None:
        return torch.empty(q.shape, dtype=q.dtype, device=q.device)
    fits = out.shape == q.shape and out.dtype == q.dtype and out.is_contiguous()
    require(fits, "out {} {} for q {} {}", out.dtype, out.shape, q.dtype, q.shape)
    return out
