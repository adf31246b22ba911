"""The layouts of KV pages in memory: one for each device.

Keys and values are addressed in the same way everywhere, as [num_pages, page_size, Hkv, D]. Only
the strides differ.
"""

from __future__ import annotations

from torch import Tensor

from csrc_triton.checks import require


def cache_views(
    keys: Tensor, values: Tensor, page_size: int, num_kv_heads: int, head_dim: int
) -> tuple[Tensor, Tensor]:
    """Views (k_cache, v_cache) of plain memory, laid out as the kernels of its device read them.

    Args:
        keys: contiguous [..., num_pages, page_size * Hkv * D].
        values: like keys.
        page_size: tokens of a page.
        num_kv_heads: Hkv.
        head_dim: D.

    Returns:
        Two views [..., num_pages, page_size, Hkv, D]. On a GPU they are contiguous, on a CPU they
        are those of `vector_major`.

    Raises:
        ValueError: the tensors are not contiguous, or their last dim is not page_size * Hkv * D.
    """
    size = page_size * num_kv_heads * head_dim
    fits = keys.shape == values.shape and keys.shape[-1:] == (size,)
    require(fits, "keys {} and values {} must be [.., {}]", keys.shape, values.shape, size)
    require(keys.is_contiguous() and values.is_contiguous(), "keys and values must be contiguous")
    layout = token_major if keys.is_cuda else vector_major
    return layout(keys, values, page_size, num_kv_heads, head_dim)


def token_major(
    keys: Tensor, values: Tensor, page_size: int, num_kv_heads: int, head_dim: int
) -> tuple[Tensor, Tensor]:
    """Pages of [page_size, Hkv, D]: the heads of a token lie side by side."""
    shape = (page_size, num_kv_heads, head_dim)
    return keys.unflatten(-1, shape), values.unflatten(-1, shape)


def vector_major(
    keys: Tensor, values: Tensor, page_size: int, num_kv_heads: int, head_dim: int
) -> tuple[Tensor, Tensor]:
    """Pages of keys [Hkv, D, page_size] and of values [Hkv, page_size, D].

    The scores of a page are sums over dims of vectors of keys; each vector holds one dim of all
    tokens. Sums over tokens take the values of one head in the order of memory.
    """
    key_pages = keys.unflatten(-1, (num_kv_heads, head_dim, page_size))
    value_pages = values.unflatten(-1, (num_kv_heads, page_size, head_dim))
    return key_pages.movedim(-1, -3), value_pages.transpose(-3, -2)
