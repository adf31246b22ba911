"""What launches of attention read and compute, from the lists that the engine made for them.

Windows are not looked at: a layer with one counts as if its rows saw everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.kernels.launches import Launch
from benchmarks.kernels.roofline.operations import Operation
from gsr_engine.attention.arrays import IntArray, run_indices

_PARTIAL = 4
"""Bytes of a number of a partial result."""


def decode_operation(launch: Launch, values: Mapping[str, Any]) -> Operation:
    """The launch that walks the items of a work list.

    An item's keys and values count once, however many programs its lanes fill: those run side by
    side, and find them in the L2 cache.
    """
    count = int(values["num_items_ptr"][0])
    entry_begin, entry_end, pages, begin, end, _ = _numbers(values["items_ptr"])[:count].T
    rows, tokens = entry_end - entry_begin, end - begin
    heads, head_dim = values["num_kv_heads"] * values["group"], values["head_dim"]
    token, row = _sizes(values)
    entries = int(rows.sum())
    partials = entries * heads * (head_dim + 1) * _PARTIAL
    tiles = np.ceil(rows * values["group"] / values["block_m"])
    flops = 4 * heads * head_dim * int((rows * tokens).sum())
    seen = _distinct(values, pages, begin, end)
    return Operation(
        name=launch.name,
        kind="decode",
        moved=int(tokens.sum()) * token + entries * row + partials,
        partials=partials,
        flops=flops,
        least_bytes=seen * token,
        least_flops=flops,
        programs=prod(launch.grid),
        busy=min(prod(launch.grid), int(tiles.sum()) * values["num_kv_heads"]),
    )


def prefill_operation(launch: Launch, values: Mapping[str, Any]) -> Operation:
    """The launch whose programs each walk what a tile of rows sees.

    A segment's keys and values count once for all its tiles: they walk them side by side.
    """
    tiles = _numbers(values["tiles_ptr"])
    spans, own = _numbers(values["spans_ptr"]), _numbers(values["own_ptr"])
    cu_seqlens = _numbers(values["cu_seqlens_ptr"])
    segment, tile, first, last, own_begin, entry = tiles.T
    rows = np.diff(cu_seqlens)[segment]
    group, lanes = values["group"], values["block_m"]
    lane = tile[:, None] * lanes + np.arange(lanes)
    exists = lane < rows[:, None] * group
    row = lane // group
    sees_own = own_begin >= 0
    # A lane sees all of the tile's spans, and of its own segment the tokens up to its own.
    own_tokens = np.where(sees_own[:, None], own[segment, 1][:, None] + row + 1, 0)
    own_tokens -= np.where(sees_own, own_begin, 0)[:, None]
    lengths = spans[:, 2] - spans[:, 1]
    needed = ((_between(lengths, first, last)[:, None] + own_tokens) * exists).sum()
    walked = _between(_rounded(lengths, values["block_n"]), first, last)
    walked += _rounded((own_tokens * exists).max(axis=1), values["block_n"])
    heads, head_dim = values["num_kv_heads"] * group, values["head_dim"]
    token, wide_row = _sizes(values)
    read = np.unique(np.column_stack([segment, first, last, own_begin]), axis=0)
    used = np.unique(run_indices(read[:, 1], read[:, 2] - read[:, 1]))
    owned = read[read[:, 3] >= 0]
    which = owned[:, 0]
    begins = np.append(spans[used, 1], owned[:, 3])
    ends = np.append(spans[used, 2], own[which, 1] + np.diff(cu_seqlens)[which])
    pages = np.append(spans[used, 0], own[which, 0])
    partials = int(exists[entry >= 0].sum()) * values["num_kv_heads"] * (head_dim + 1) * _PARTIAL
    per_lane = 4 * head_dim * values["num_kv_heads"]
    programs = prod(launch.grid)
    return Operation(
        name=launch.name,
        kind="prefill",
        moved=int((ends - begins).sum()) * token + int(cu_seqlens[-1]) * 2 * wide_row + partials,
        partials=partials,
        flops=int(walked.sum()) * lanes * per_lane,
        least_bytes=_distinct(values, pages, begins, ends) * token,
        least_flops=int(needed) * per_lane,
        programs=programs,
        busy=programs,
    )


def merge_operation(launch: Launch, values: Mapping[str, Any]) -> Operation:
    """The launch that merges partial results."""
    ranges = _numbers(values["ranges_ptr"])
    heads, head_dim = values["num_heads"], values["head_dim"]
    merged = int((ranges[:, 1] - ranges[:, 0]).sum()) * heads * (head_dim + 1) * _PARTIAL
    written = int((ranges[:, 0] >= 0).sum()) * heads * head_dim * values["out_ptr"].itemsize
    programs = prod(launch.grid)
    return Operation(
        name=launch.name,
        kind="merge",
        moved=merged + written,
        partials=merged + written,
        programs=programs,
        busy=programs,
    )


def _numbers(tensor: Tensor) -> IntArray:
    return tensor.numpy().astype(np.int64)


def _sizes(values: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes of a token's keys and values, and of a row of queries."""
    head = values["num_kv_heads"] * values["head_dim"] * values["k_ptr"].itemsize
    return 2 * head, head * values["group"]


def _between(lengths: IntArray, first: IntArray, last: IntArray) -> IntArray:
    """For each pair, the sum of the lengths from the first up to the last."""
    sums: IntArray = np.append(0, lengths.cumsum())
    return sums[last] - sums[first]


def _rounded(tokens: IntArray, block: int) -> IntArray:
    return -(-tokens // block) * block


def _distinct(values: Mapping[str, Any], pages: IntArray, begin: IntArray, end: IntArray) -> int:
    """How many tokens are read at least once: tokens [begin, end) of lists of pages."""
    size = values["page_size"]
    tokens = run_indices(begin, end - begin)
    lists = np.repeat(pages, end - begin)
    table = _numbers(values["page_table_ptr"])
    slots = table[lists + tokens // size] * size + tokens % size
    return int(np.count_nonzero(np.bincount(slots)))
