"""Packed attention, on a CPU and as FlexAttention does it, against a dense mask written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from train.rows import JOIN, Row
from train.trainer.attention import Documents, block_mask, branch_mask, packed_attention

pytestmark = pytest.mark.slow

ROWS = [
    Row("direct", list(range(9)), 5),
    Row("refine", list(range(30)), 25, 6, [4, 1, 8], 14),
    Row("refine", [1], 1),
    Row("refine", list(range(40)), 38, 3, [5, 20], 23),
]


def dense_mask(rows: list[Row], total: int) -> torch.Tensor:
    """Token by token, as DESIGN says it; padding sees itself."""
    mask = torch.eye(total, dtype=torch.bool)
    start = 0
    for row in rows:
        for i in range(len(row)):
            for j in range(i + 1):
                reader, writer = int(row.branches[i]), int(row.branches[j])
                mask[start + i, start + j] = writer in (0, reader) or reader == JOIN
        start += len(row)
    return mask


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("flex", [False, True])
def test_packed_attention_equals_a_dense_mask(flex: bool, padding: int) -> None:
    torch.manual_seed(0)
    lengths = [len(row) for row in ROWS]
    used, total = sum(lengths), sum(lengths) + padding
    branches = np.concatenate([*(row.branches for row in ROWS), np.zeros(padding, np.int64)])
    documents = np.repeat([*range(len(ROWS)), -1], [*lengths, padding])
    query = torch.randn(1, 4, total, 16)
    key, value = torch.randn(2, 1, 2, total, 16).unbind()
    if flex:
        mask = block_mask(torch.from_numpy(documents), torch.from_numpy(branches))
    else:
        mask = Documents.of(lengths, branches, total)
    got, _ = packed_attention(torch.nn.Identity(), query, key, value, None, packed=mask)
    dense = dense_mask(ROWS, total)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=dense, enable_gqa=True)
    torch.testing.assert_close(got[:, :used], expected.transpose(1, 2)[:, :used])
    assert got.isfinite().all()


@settings(deadline=None)
@given(
    fork=st.integers(1, 6),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    joined=st.integers(1, 6),
)
def test_a_row_says_what_the_engines_contexts_say(
    fork: int, lengths: list[int], joined: int
) -> None:
    """A candidate: the problem and itself. The refinement: everything. Positions likewise."""
    total = fork + sum(lengths) + joined
    row = Row("refine", list(range(total)), total - 1, fork, lengths, 50)
    mask = branch_mask(torch.from_numpy(row.branches))[0, 0]
    begin = fork
    for length in lengths:
        for place in range(length):
            seen = {*range(fork), *range(begin, begin + place + 1)}
            assert set(mask[begin + place].nonzero().flatten().tolist()) == seen
            assert row.positions[begin + place] == fork + place
        begin += length
    for place in range(begin, total):
        assert mask[place].nonzero().flatten().tolist() == list(range(place + 1))
        assert row.positions[place] == 50 + place - begin
