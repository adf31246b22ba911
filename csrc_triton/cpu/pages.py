"""Whether the kernels can read a cache: the layout, the size of a page, the dtype."""

from __future__ import annotations

from torch import Tensor

from csrc_triton.cpu.library import Library, library

PAGE = 16
MOST_DIMS = 256


def kernels_for(k_cache: Tensor, v_cache: Tensor, *heads: Tensor) -> Library | None:
    """The kernels for a cache and tensors [N, heads, D]; None if they cannot read them.

    They read caches that `csrc_triton.cache_views` made, and tensors of the same dtype whose heads
    lie side by side in each row.
    """
    _, page_size, num_kv_heads, head_dim = k_cache.shape
    if page_size != PAGE or head_dim > MOST_DIMS or head_dim % 2:
        return None
    page = num_kv_heads * head_dim * PAGE
    if k_cache.stride() != (page, 1, head_dim * PAGE, PAGE):
        return None
    if v_cache.stride() != (page, head_dim, head_dim * PAGE, 1):
        return None
    if v_cache.dtype != k_cache.dtype:
        return None
    for one in heads:
        if one.dtype != k_cache.dtype or one.stride()[1:] != (head_dim, 1):
            return None
    return library(k_cache.dtype)
