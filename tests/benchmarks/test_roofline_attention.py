"""What launches of attention cost, for random lists, against counting every row and token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from benchmarks.kernels.launches import Launch, recorded
from benchmarks.kernels.roofline.attention_cost import (
    decode_operation,
    merge_operation,
    prefill_operation,
)
from benchmarks.kernels.roofline.operations import Operation
from csrc_triton import PagedSpan, PrefillPlan, WorkList, decode, prefill

PAGE, PAGES, HEAD_DIM, KV_HEADS, GROUP = 16, 400, 16, 2, 3
HEADS = KV_HEADS * GROUP
TOKEN = 2 * KV_HEADS * HEAD_DIM * 2
PARTIAL = 4 * HEADS * (HEAD_DIM + 1)
CACHE = torch.zeros((PAGES, PAGE, KV_HEADS, HEAD_DIM), dtype=torch.bfloat16)
COSTS = {
    "_work_list_kernel": decode_operation,
    "_prefill_kernel": prefill_operation,
    "_reduce_kernel": merge_operation,
}


def operations(run: Callable[[], object]) -> dict[str, Operation]:
    """The operations of a run, by the name of their kernel."""
    found: dict[str, Operation] = {}

    def watch(launch: Launch, values: Mapping[str, Any]) -> None:
        name = launch.name.split(".")[1]
        found[name] = COSTS[name](launch, values)

    with recorded(watch):
        run()
    return found


def tokens(span: PagedSpan) -> set[tuple[int, int]]:
    """Page and offset of each token of a span."""
    return {(span.pages[t // PAGE], t % PAGE) for t in range(span.start, span.stop)}


@st.composite
def spans(draw: st.DrawFn, longest: int = 700) -> PagedSpan:
    """A span of consecutive pages; two of them may have pages in common."""
    stop = draw(st.integers(1, longest))
    start = draw(st.integers(0, stop - 1))
    first = draw(st.integers(0, PAGES - longest // PAGE - 1))
    return PagedSpan(range(first, first + longest // PAGE + 1), start, stop, 0)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sets(st.integers(0, 5), min_size=1), spans()), min_size=1, max_size=6))
def test_decode_reads_the_tokens_of_its_items(reads: list[tuple[set[int], PagedSpan]]) -> None:
    work = WorkList.from_spans([(sorted(rows), span) for rows, span in reads], 6, 256)
    q = torch.zeros((6, HEADS, HEAD_DIM), dtype=torch.bfloat16)
    out = torch.empty_like(q)

    def run() -> None:
        decode.decode_attention(q, CACHE, CACHE, work, 1.0, None, None, None, out)

    found = operations(run)
    attention, merge = found["_work_list_kernel"], found["_reduce_kernel"]
    entries = sum(len(rows) * -(-(span.stop - span.start) // 256) for rows, span in reads)
    read = sum(span.stop - span.start for _, span in reads)
    assert attention.partials == entries * PARTIAL
    assert attention.moved == read * TOKEN + entries * (PARTIAL + HEADS * HEAD_DIM * 2)
    assert attention.least_bytes == len(set().union(*(tokens(span) for _, span in reads))) * TOKEN
    pairs = sum(len(rows) * (span.stop - span.start) for rows, span in reads)
    assert attention.flops == attention.least_flops == 4 * HEADS * HEAD_DIM * pairs
    assert 0 < attention.busy <= attention.programs
    assert merge.moved == entries * PARTIAL + q.nbytes


@st.composite
def chunks(draw: st.DrawFn) -> tuple[PagedSpan, list[PagedSpan]]:
    """A chunk of a segment, and its context, which may be long enough to be cut into sections."""
    computed, rows = draw(st.integers(0, 100)), draw(st.integers(1, 90))
    first = draw(st.integers(0, PAGES - 20))
    own = PagedSpan(range(first, first + 13), computed, computed + rows, 0)
    return own, draw(st.lists(spans(3000), max_size=3))


@settings(deadline=None, max_examples=60)
@given(st.lists(chunks(), min_size=1, max_size=4))
def test_prefill_sees_what_its_rows_see(
    segments: list[tuple[PagedSpan, list[PagedSpan]]],
) -> None:
    plan = PrefillPlan.from_segments(segments, "cpu", prefill.prefill_tiling(HEADS, CACHE))
    count = sum(own.stop - own.start for own, _ in segments)
    q = torch.zeros((count, HEADS, HEAD_DIM), dtype=torch.bfloat16)
    found = operations(lambda: prefill.prefill_attention(q, CACHE, CACHE, plan, 1.0))
    attention = found["_prefill_kernel"]
    pairs, seen = 0, set[tuple[int, int]]()
    for own, context in segments:
        behind = sum(span.stop - span.start for span in context)
        pairs += sum(behind + token + 1 for token in range(own.start, own.stop))
        seen |= tokens(PagedSpan(own.pages, 0, own.stop, 0)).union(*map(tokens, context))
    assert attention.least_flops == 4 * HEADS * HEAD_DIM * pairs
    assert attention.flops >= attention.least_flops
    assert attention.least_bytes == len(seen) * TOKEN
    read = attention.moved - attention.partials - 2 * q.nbytes
    every = sum(own.stop + sum(s.stop - s.start for s in context) for own, context in segments)
    assert read == every * TOKEN
    merge = found.get("_reduce_kernel")
    assert attention.partials == (0 if merge is None else merge.moved - merged_bytes(plan))


def merged_bytes(plan: PrefillPlan) -> int:
    """Of the rows whose results are merged."""
    assert plan.tiles is not None
    return int((plan.tiles.partial_ranges[:, 0] >= 0).sum()) * HEADS * HEAD_DIM * 2
