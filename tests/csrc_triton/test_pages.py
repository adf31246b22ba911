"""Pages of a device lie in memory as its kernels read them."""

import pytest
import torch

from csrc_triton import cache_views, pages

SHAPE = (2, 5, 4 * 3 * 8)  # layers, pages, and pages of 4 tokens, 3 heads, 8 dims
NUMBERS = torch.arange(2 * 5 * 96).view(SHAPE)


def test_a_gpu_reads_the_heads_of_a_token_side_by_side():
    for view in pages.token_major(NUMBERS, NUMBERS, 4, 3, 8):
        assert view.is_contiguous()
        assert view.shape == (2, 5, 4, 3, 8)


def test_a_cpu_reads_the_keys_of_a_page_dim_by_dim_and_its_values_token_by_token():
    keys, values = cache_views(NUMBERS, NUMBERS, 4, 3, 8)
    assert keys.shape == values.shape == (2, 5, 4, 3, 8)
    layer, page, token, head, dim = 1, 2, 3, 1, 5
    begin = (layer * 5 + page) * 96 + head * 8 * 4
    assert keys[layer, page, token, head, dim] == begin + dim * 4 + token
    assert values[layer, page, token, head, dim] == begin + token * 8 + dim
    assert keys.data_ptr() == NUMBERS.data_ptr() == values.data_ptr()


def test_memory_that_is_no_row_of_pages_is_refused():
    with pytest.raises(ValueError, match=r"must be \[.., 48\]"):
        cache_views(NUMBERS, NUMBERS, 2, 3, 8)
    strided = NUMBERS.repeat(1, 1, 2)[..., ::2]
    with pytest.raises(ValueError, match="contiguous"):
        cache_views(strided, NUMBERS, 4, 3, 8)
