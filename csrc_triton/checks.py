"""Argument checks shared by the dispatch and the launchers."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Gate = Literal["silu", "gelu_tanh"]
"""The function of a gate; `gelu_tanh` is GELU's approximation by tanh."""
GATES: tuple[Gate, ...] = get_args(Gate)

# The kernels pad each to a power of two; 16 is the least that tl.dot takes. Nano and the tests use
# 16 and 32.
HEAD_DIMS = (16, 32, 64, 80, 96, 128, 256)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def require(condition: bool, message: str, *values: object) -> None:
    """Raise ValueError unless the condition holds.

    The values are formatted only for the error: printing a shape takes longer than most small
    operations do.
    """
    if not condition:
        raise ValueError(message.format(*values))


def check_heads(q: Tensor, k_cache: Tensor, v_cache: Tensor) -> None:
    """Check q [N, Hq, D] against caches [num_pages, page_size, Hkv, D]; Hkv must divide Hq."""
    fits = q.dim() == 3 and k_cache.dim() == 4 and k_cache.shape == v_cache.shape
    fits = fits and q.shape[2] == k_cache.shape[3] and q.shape[1] % k_cache.shape[2] == 0
    require(
        fits, "q {}, k_cache {} and v_cache {} do not fit", q.shape, k_cache.shape, v_cache.shape
    )


def check_bias(bias: Tensor | None, x: Tensor, outputs: int, gate: Gate | None) -> None:
    """Check the bias of a product of x, where there is one: [outputs], and no gate behind it."""
    if bias is not None:
        fits = bias.shape == (outputs,) and bias.dtype == x.dtype and gate is None
        require(fits, "bias {} {} for {} outputs, gate {}", bias.dtype, bias.shape, outputs, gate)


def check_slots(x: Tensor, slots: int, top_k: int) -> None:
    """Check that x has a row for each slot of a routing, or one for each token."""
    fits = x.dim() == 2 and x.shape[0] in (slots, slots // top_k)
    require(fits, "x {} for {} slots of {} a token", x.shape, slots, top_k)


def check_norm(x: Tensor, weight: Tensor) -> None:
    """Check the weight of a norm of x: [D], of x's dtype or fp32."""
    fits = weight.shape == x.shape[-1:] and weight.dtype in (x.dtype, torch.float32)
    if not fits:
        given = (weight.dtype, tuple(weight.shape), x.dtype, tuple(x.shape))
        raise ValueError("weight {} {} for the norm of x {} {}".format(*given))


def check_norms(q: Tensor, q_norm: Tensor | None, k_norm: Tensor | None) -> None:
    """Check the weights of the qk-norm: both [D], of q's dtype or fp32; or neither."""
    require((q_norm is None) == (k_norm is None), "q_norm and k_norm belong together")
    if q_norm is not None and k_norm is not None:
        check_norm(q, q_norm)
        check_norm(q, k_norm)
        require(q_norm.dtype == k_norm.dtype, "q_norm is {}, k_norm {}", q_norm.dtype, k_norm.dtype)


def check_gate(gate: str | None) -> None:
    """Check the name of a gate, where there is one."""
    require(gate is None or gate in GATES, "gate {!r} is not one of {}", gate, GATES)


def check_window(window: int | None) -> None:
    """Check that a window, where there is one, holds at least the row itself."""
    require(window is None or window > 0, "window must be at least 1, got {}", window)


def check_sinks(sinks: Tensor | None, num_q_heads: int) -> None:
    """Check that sinks, where there are any, are fp32 [Hq]."""
    if sinks is not None:
        fits = sinks.shape == (num_q_heads,) and sinks.dtype == torch.float32
        require(fits, "sinks must be fp32 [{}], got {} {}", num_q_heads, sinks.dtype, sinks.shape)


def check_contiguous(k_cache: Tensor, v_cache: Tensor) -> None:
    """Check the layout of the caches that the Triton kernels read."""
    require(k_cache.is_contiguous() and v_cache.is_contiguous(), "caches must be contiguous")


def check_kernel_inputs(head_dim: int, *tensors: Tensor) -> None:
    """Check head dim, dtypes and strides, as the attention and rope kernels need them."""
    require(head_dim in HEAD_DIMS, "head dim {} is not one of {}", head_dim, HEAD_DIMS)
    dtype = tensors[0].dtype
    require(dtype in DTYPES, "{} is not one of {}", dtype, DTYPES)
    for tensor in tensors:
        require(tensor.dtype == dtype, "one dtype for all: {} and {}", dtype, tensor.dtype)
        require(tensor.stride(-1) == 1, "the last dim must be contiguous: {}", tensor.stride())


def check_attention_inputs(q: Tensor, k_cache: Tensor, v_cache: Tensor, scale: float) -> None:
    """Check head dim, dtypes, strides, scale and page size, as the attention kernels need them."""
    check_kernel_inputs(q.shape[2], q, k_cache, v_cache)
    check_contiguous(k_cache, v_cache)
    require(scale > 0, "scale must be positive, got {}", scale)
    page_size = k_cache.shape[1]
    require(16 % page_size == 0, "page size {} does not divide 16, as tiles do", page_size)
