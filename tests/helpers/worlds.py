"""Random paged worlds and a dense oracle that knows nothing of pages, splits or merging."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from csrc_triton import PagedSpan, PrefillPlan, WorkList

# Cache entries that no token owns hold this: whoever reads one is found out.
POISON = float("nan")


@dataclass(frozen=True, repr=False)
class World:
    """Segments in a paged cache, and queries that attend to spans of them."""

    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    # Per segment [length, Hkv, D]: the same numbers without pages.
    keys: list[Tensor]
    values: list[Tensor]
    pages: list[list[int]]
    contexts: list[list[tuple[int, int, int]]]  # per row or per chunk: (segment, start, stop)
    positions: list[int]  # of each segment's token 0
    row_positions: Tensor  # of decoding rows; those of a chunk follow from its segment
    scale: float
    window: int | None
    sinks: Tensor | None

    def __repr__(self) -> str:
        return f"World(q {self.q.shape}, cache {self.k_cache.shape}, contexts {self.contexts})"

    def span(self, segment: int, start: int, stop: int) -> PagedSpan:
        return PagedSpan(self.pages[segment], start, stop, self.positions[segment])

    def private_work(self, split: int = 10**6) -> WorkList:
        pairs = [([row], self.span(*s)) for row, spans in enumerate(self.contexts) for s in spans]
        return WorkList.from_spans(pairs, len(self.contexts), split)

    def shared_work(self, split: int = 10**6) -> WorkList:
        rows_of: dict[tuple[int, int, int], list[int]] = {}
        for row, spans in enumerate(self.contexts):
            for s in spans:
                rows_of.setdefault(s, []).append(row)
        pairs = [(rows, self.span(*s)) for s, rows in rows_of.items()]
        return WorkList.from_spans(pairs, len(self.contexts), split)

    def sharpened(self) -> World:
        """Huge logits that are exact in fp32: whole numbers in q and k, times a large scale."""
        whole = {"q": self.q.round(), "k_cache": self.k_cache.round()}
        return replace(self, **whole, keys=[k.round() for k in self.keys], scale=256.0)

    def to(self, dtype: torch.dtype, device: str) -> World:
        moved: dict[str, Any] = {
            name: getattr(self, name).to(device, dtype) for name in ("q", "k_cache", "v_cache")
        }
        moved["row_positions"] = self.row_positions.to(device)
        moved["sinks"] = None if self.sinks is None else self.sinks.to(device)
        return replace(self, **moved)

    def laid_out(self, layout: Any) -> World:
        """The same world with pages in a layout of `csrc_triton.pages`."""
        num_pages, *page = self.k_cache.shape
        memory = torch.empty((2, num_pages, math.prod(page)))
        k_cache, v_cache = layout(*memory, *page)
        return replace(
            self, k_cache=k_cache.copy_(self.k_cache), v_cache=v_cache.copy_(self.v_cache)
        )

    def spoilt(self, segment: int, token: int) -> World:
        """The same world where one token's keys and values are NaN."""
        numbers = {
            name: [x.clone() for x in getattr(self, name)]
            if isinstance(getattr(self, name), list)
            else getattr(self, name).clone()
            for name in ("keys", "values", "k_cache", "v_cache")
        }
        page_size = self.k_cache.shape[1]
        page = self.pages[segment][token // page_size]
        for one in (numbers["keys"], numbers["values"]):
            one[segment][token] = float("nan")
        for one in (numbers["k_cache"], numbers["v_cache"]):
            one[page, token % page_size] = float("nan")
        return replace(self, **numbers)


def on(work: Any, device: str) -> Any:
    """A WorkList or PrefillPlan with its tensors on the device."""
    tensors = {n: v.to(device) for n, v in vars(work).items() if isinstance(v, Tensor)}
    return replace(work, **tensors)


def dense(
    world: World, queries: Tensor, position: int, spans: list[tuple[int, int, int]]
) -> Tensor:
    """softmax(q·k * scale) v in float64 for queries [Hq, D] of a row at a position over spans.

    A token behind the window is left out. The sinks are one more logit, whose weight is dropped.
    """
    keys, values = [world.keys[0][:0]], [world.values[0][:0]]
    for s, start, stop in spans:
        places = world.positions[s] + torch.arange(start, stop)
        seen = position - places < (math.inf if world.window is None else world.window)
        keys.append(world.keys[s][start:stop][seen])
        values.append(world.values[s][start:stop][seen])
    group = queries.shape[0] // world.k_cache.shape[2]
    k, v = (torch.cat(x).double().repeat_interleave(group, 1) for x in (keys, values))
    logits = torch.einsum("hd,thd->ht", queries.double(), k) * world.scale
    if world.sinks is not None:
        logits = torch.cat((logits, world.sinks.double()[:, None]), 1)
    return torch.einsum("ht,thd->hd", logits.softmax(-1)[:, : len(k)], v).float()


def dense_decode(world: World) -> Tensor:
    rows = zip(world.q, world.row_positions.tolist(), world.contexts, strict=True)
    return torch.stack([dense(world, *row) for row in rows])


def check_around_nan(actual: Tensor, expected: Tensor, **close: float) -> None:
    """The same heads hold a NaN; the others are close."""
    faulty = expected.isnan().any(-1)
    assert torch.equal(actual.isnan().any(-1), faulty)
    torch.testing.assert_close(actual[~faulty], expected[~faulty], **close)


def make_prefill(world: World, computed: list[int]) -> tuple[PrefillPlan, Tensor]:
    """(plan, expected): segment s is computed up to computed[s], its context is contexts[s]."""
    segments = []
    expected: list[Tensor] = []
    for s, begin in enumerate(computed):
        end = len(world.keys[s])
        context = [world.span(*span) for span in world.contexts[s]]
        segments.append((world.span(s, begin, end), context))
        for token in range(begin, end):
            spans = [*world.contexts[s], (s, 0, token + 1)]
            query = world.q[len(expected)]
            expected.append(dense(world, query, world.positions[s] + token, spans))
    return PrefillPlan.from_segments(segments), torch.stack(expected)


@st.composite
def decode_worlds(draw: Any) -> World:
    """Rows whose contexts are any spans of a few segments, siblings sharing some of them."""
    lengths, spans = draw(_segments())
    pool = draw(st.lists(spans, min_size=1, max_size=4, unique=True))
    context = st.lists(st.sampled_from(pool), max_size=3, unique=True)
    contexts = draw(st.lists(context, min_size=1, max_size=4))
    rows = len(contexts)
    places = draw(st.lists(st.integers(0, 150), min_size=rows, max_size=rows))
    return build_world(lengths, contexts, rows, row_positions=places, **draw(_shapes(lengths)))


@st.composite
def prefill_worlds(draw: Any) -> tuple[World, list[int]]:
    """(world, computed) for `make_prefill`: chunks of the first segments, any spans as context."""
    lengths, spans = draw(_segments())
    chunks = range(draw(st.integers(1, len(lengths))))
    contexts = [draw(st.lists(spans, max_size=3)) for _ in chunks]
    computed = [draw(st.integers(0, lengths[s] - 1)) for s in chunks]
    rows = sum(lengths[s] - computed[s] for s in chunks)
    return build_world(lengths, contexts, rows, **draw(_shapes(lengths))), computed


def _shapes(lengths: list[int]) -> Any:
    segments = len(lengths)
    return st.fixed_dictionaries(
        {
            "heads": st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 2), (1, 7)]),
            "page_size": st.sampled_from([4, 16]),
            "seed": st.integers(0, 2**32),
            "positions": st.lists(st.integers(0, 60), min_size=segments, max_size=segments),
            "window": st.none() | st.integers(1, 60),
            "sinks": st.booleans(),
        }
    )


@st.composite
def _segments(draw: Any) -> Any:
    """Some lengths, and a strategy for spans of those segments."""
    lengths = draw(st.lists(st.integers(1, 45), min_size=1, max_size=4))

    def spans_of(segment: int) -> Any:
        # Empty spans, one-token spans and ends inside a page all come up.
        ends = st.tuples(*[st.integers(0, lengths[segment])] * 2)
        return ends.map(lambda e: (segment, min(e), max(e)))

    return lengths, st.integers(0, len(lengths) - 1).flatmap(spans_of)


def build_world(
    lengths: list[int],
    contexts: list[list[tuple[int, int, int]]],
    rows: int,
    heads: tuple[int, int] = (2, 3),
    head_dim: int = 16,
    page_size: int = 16,
    seed: int = 0,
    positions: list[int] | None = None,
    row_positions: list[int] | None = None,
    window: int | None = None,
    sinks: bool = False,
) -> World:
    """Segments of random numbers on shuffled pages; heads is (kv heads, query heads of each)."""
    num_kv_heads, group = heads
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    counts = [-(-length // page_size) for length in lengths]
    num_pages = sum(counts) + 2
    free = torch.randperm(num_pages, generator=generator).tolist()
    k_cache, v_cache = torch.full((2, num_pages, page_size, num_kv_heads, head_dim), POISON)
    world = World(
        q=normal(rows, num_kv_heads * group, head_dim),
        k_cache=k_cache,
        v_cache=v_cache,
        keys=[normal(length, num_kv_heads, head_dim) for length in lengths],
        values=[normal(length, num_kv_heads, head_dim) for length in lengths],
        pages=[[free.pop() for _ in range(count)] for count in counts],
        contexts=contexts,
        positions=positions or [0] * len(lengths),
        row_positions=torch.tensor(row_positions or [0] * len(contexts)),
        scale=head_dim**-0.5,
        window=window,
        sinks=normal(num_kv_heads * group) if sinks else None,
    )
    for pages, keys, values in zip(world.pages, world.keys, world.values, strict=True):
        for t in range(len(keys)):
            k_cache[pages[t // page_size], t % page_size] = keys[t]
            v_cache[pages[t // page_size], t % page_size] = values[t]
    return world
