"""What launches of attention read and compute, from the lists that the engine made for them.

Windows are not looked at: a layer with one counts as if its rows saw everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from benchmarks.kernels.launches import Launch
from benchmarks.kernels.roofline.operations import Operation

IntArray = npt.NDArray[np.int64]
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
    needed, walked, merged = _walks(values)
    pages, begin, end = _runs_of_segments(values)
    token, row = _sizes(values)
    head_dim, kv_heads = values["head_dim"], values["num_kv_heads"]
    partials = merged * kv_heads * (head_dim + 1) * _PARTIAL
    read = int((end - begin).sum()) * token + 2 * values["q_ptr"].shape[0] * row
    programs = prod(launch.grid)
    return Operation(
        name=launch.name,
        kind="prefill",
        moved=read + partials,
        partials=partials,
        flops=4 * head_dim * kv_heads * walked,
        least_bytes=_distinct(values, pages, begin, end) * token,
        least_flops=4 * head_dim * kv_heads * needed,
        programs=programs,
        busy=programs,
    )


def _walks(values: Mapping[str, Any]) -> tuple[int, int, int]:
    """Of all tiles for one kv head: pairs of a lane and a token that it sees, pairs that are
    computed, and lanes that leave a partial result.
    """
    spans, own = _numbers(values["spans_ptr"]), _numbers(values["own_ptr"])
    segment, tile, first, last, own_begin, entry = _numbers(values["tiles_ptr"]).T
    rows = np.diff(_numbers(values["cu_seqlens_ptr"]))[segment]
    lane = tile[:, None] * values["block_m"] + np.arange(values["block_m"])
    exists = lane < rows[:, None] * values["group"]
    # A lane sees all of the tile's spans, and of its own segment the tokens up to its own.
    stop = own[segment, 1][:, None] + lane // values["group"] + 1
    own_tokens = np.where(own_begin[:, None] < 0, 0, stop - own_begin[:, None]) * exists
    lengths, block = spans[:, 2] - spans[:, 1], values["block_n"]
    context = _between(lengths, first, last)
    walked = _between(_rounded(lengths, block), first, last)
    walked += _rounded(own_tokens.max(axis=1), block)
    needed = context * exists.sum(axis=1) + own_tokens.sum(axis=1)
    return int(needed.sum()), int(walked.sum()) * values["block_m"], int(exists[entry >= 0].sum())


def _runs_of_segments(values: Mapping[str, Any]) -> tuple[IntArray, IntArray, IntArray]:
    """What the segments read: for each run the begin of its page list, its first token, its end.

    Tiles of one segment, or of one section of it, read the same runs, which come once.
    """
    spans, own = _numbers(values["spans_ptr"]), _numbers(values["own_ptr"])
    tiles = _numbers(values["tiles_ptr"])
    segment, first, last, own_begin = np.unique(tiles[:, [0, 2, 3, 4]], axis=0).T
    context = _runs(first, last)
    mine = segment[own_begin >= 0]
    rows = np.diff(_numbers(values["cu_seqlens_ptr"]))
    return (
        np.append(spans[context, 0], own[mine, 0]),
        np.append(spans[context, 1], own_begin[own_begin >= 0]),
        np.append(spans[context, 2], own[mine, 1] + rows[mine]),
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


def _runs(begin: IntArray, end: IntArray) -> IntArray:
    """The numbers from each begin up to its end, one run behind the other."""
    runs = [np.arange(*pair) for pair in zip(begin, end, strict=True)]
    return np.concatenate([np.empty(0, dtype=np.int64), *runs])


def _rounded(tokens: IntArray, block: int) -> IntArray:
    return -(-tokens // block) * block


def _distinct(values: Mapping[str, Any], pages: IntArray, begin: IntArray, end: IntArray) -> int:
    """How many tokens are read at least once: tokens [begin, end) of lists of pages."""
    size = values["page_size"]
    tokens = _runs(begin, end)
    lists = np.repeat(pages, end - begin)
    table = _numbers(values["page_table_ptr"])
    slots = table[lists + tokens // size] * size + tokens % size
    return int(np.count_nonzero(np.bincount(slots)))
