"""Decode attention over work lists: against the copy bandwidth, SDPA and FlashInfer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import csrc_triton
from benchmarks.kernels.peers import flashinfer_decode
from benchmarks.kernels.rows import Emit, Row, add, collect, ignore
from benchmarks.kernels.timing import measure_limits, seconds
from benchmarks.kernels.worlds import QWEN2_7B, QWEN3_8B, Cache, Heads, relative_error
from csrc_triton import PagedSpan, WorkList


@dataclass(frozen=True, slots=True)
class DecodeCase:
    """Some groups of siblings that have a problem in common.

    Attributes:
        groups: how many.
        own: tokens of each sibling's own segment.
        siblings: in each group.
        problem: tokens that a group's siblings share.
        share: whether the list shares these tokens; otherwise every sibling reads them.
        split: tokens after which a span is cut; the engine's is 256 (`sharing.SPLIT`).
        heads: of the model.
        dtype: of everything.
        peers: whether to time SDPA and FlashInfer too.
    """

    groups: int
    own: int
    siblings: int = 1
    problem: int = 0
    share: bool = False
    split: int = 256
    heads: Heads = QWEN2_7B
    dtype: torch.dtype = torch.bfloat16
    peers: bool = True

    @property
    def rows(self) -> int:
        """Query rows of the step."""
        return self.groups * self.siblings

    @property
    def least_bytes(self) -> int:
        """Bytes of each key, value, query and output, once. No list can move fewer."""
        tokens = self.groups * self.problem + self.rows * self.own
        queries = 2 * self.rows * self.heads.query * self.heads.dim * self.dtype.itemsize
        return tokens * self.heads.token_bytes(self.dtype) + queries

    def __str__(self) -> str:
        name = f"{self.heads} batch {self.rows}, context {self.problem + self.own}"
        if self.problem:
            of = f", {self.problem} of it shared by {self.siblings}"
            name += of + (", list shares" if self.share else ", list does not share")
        return f"{name}, split {self.split}"


@dataclass(frozen=True, eq=False)
class DecodeWorld:
    """A case's tensors.

    Attributes:
        q: [rows, Hq, D].
        cache: the pages.
        contexts: per row.
        work: the list that the case asks for.
        scale: of the scores.
    """

    q: Tensor
    cache: Cache
    contexts: list[list[PagedSpan]]
    work: WorkList
    scale: float

    @classmethod
    def of(cls, case: DecodeCase, device: str) -> DecodeWorld:
        """Random numbers for one step."""
        heads = case.heads
        problems = [case.problem] * (case.groups if case.problem else 0)
        lengths = [*problems, *[case.own] * case.rows]
        cache = Cache.of(lengths, heads, case.dtype, device)
        tails = cache.spans[len(problems) :]
        contexts = [
            [*([cache.spans[row // case.siblings]] if case.problem else []), tail]
            for row, tail in enumerate(tails)
        ]
        q = torch.randn(case.rows, heads.query, heads.dim, device=device).to(case.dtype)
        work = WorkList.from_spans(_pairs(case, contexts), case.rows, case.split, device)
        return cls(q, cache, contexts, work, heads.dim**-0.5)

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, WorkList, float]:
        """Of `csrc_triton.decode_attention`."""
        return self.q, self.cache.keys, self.cache.values, self.work, self.scale


def _pairs(
    case: DecodeCase, contexts: Sequence[list[PagedSpan]]
) -> list[tuple[list[int], PagedSpan]]:
    pairs = []
    for group in range(case.groups if case.problem and case.share else 0):
        first = group * case.siblings
        pairs.append(([*range(first, first + case.siblings)], contexts[first][0]))
    for row, spans in enumerate(contexts):
        pairs += [([row], span) for span in (spans[-1:] if case.share else spans)]
    return pairs


GRID = [DecodeCase(batch, context) for batch in (64, 256) for context in (1024, 4096, 16384)]
GROUPS = DecodeCase(groups=16, own=256, siblings=8, problem=4096)
CASES = [
    *GRID,
    DecodeCase(1, 32768),
    GROUPS,
    replace(GROUPS, share=True),
    DecodeCase(1, 32768, heads=QWEN3_8B),
    DecodeCase(64, 4096, heads=QWEN3_8B),
    replace(GROUPS, heads=QWEN3_8B),
    replace(GROUPS, heads=QWEN3_8B, share=True),
]
QUICK = [
    DecodeCase(64, 4096),
    DecodeCase(256, 1024),
    DecodeCase(1, 32768),
    GROUPS,
    replace(GROUPS, share=True),
]
TINY = [
    DecodeCase(2, 20, heads=Heads(4, 2, 16)),
    DecodeCase(2, 5, siblings=2, problem=16, share=True, heads=Heads(4, 2, 16)),
]


def measure_decode(
    device: str,
    quick: bool = False,
    cases: Sequence[DecodeCase] | None = None,
    emit: Emit = ignore,
) -> list[Row]:
    """Time decode attention, both launches together and the merging alone.

    `gbs` counts `DecodeCase.least_bytes`. A list that reads a problem for every sibling moves more
    than that through the caches.
    """
    if cases is None:
        cases = TINY if device == "cpu" else QUICK if quick else CASES
    named = [(str(case), case) for case in cases]
    return collect("decode", named, partial(_measure, device=device), emit)


def _measure(case: DecodeCase, device: str) -> Row:
    world = DecodeWorld.of(case, device)
    q, keys, values, work, scale = world.arguments()
    row = time_decode(case, device, partial(csrc_triton.decode_attention, *world.arguments()))
    partials = csrc_triton.decode_attention_partials(q, keys, values, work, scale)
    merging = seconds(lambda: csrc_triton.reduce_partials(*partials, work, q.dtype), device)
    row["merge_us"] = 1e6 * merging
    if case.peers:
        out = csrc_triton.reduce_partials(*partials, work, q.dtype)
        for name, prepare in (("sdpa", _sdpa), ("flashinfer", _flashinfer)):
            compare = partial(_against, row["us"], name, prepare, world, out, device)
            add(row, f"{name}_failed", compare)
    return row


def _sdpa(world: DecodeWorld) -> Callable[[], Tensor]:
    keys, values = world.cache.dense(world.contexts)
    q = world.q.unsqueeze(2)
    return lambda: F.scaled_dot_product_attention(q, keys, values, enable_gqa=True).squeeze(2)


def _flashinfer(world: DecodeWorld) -> Callable[[], Tensor] | None:
    keys, values = world.cache.keys, world.cache.values
    return flashinfer_decode(world.q, keys, values, world.contexts, world.scale)


def _against(
    us: float,
    name: str,
    prepare: Callable[[DecodeWorld], Callable[[], Tensor] | None],
    world: DecodeWorld,
    out: Tensor,
    device: str,
) -> Row:
    run = prepare(world)
    if run is None:
        return {}
    theirs = 1e6 * seconds(run, device)
    error = relative_error(out, run())
    return {f"{name}_us": theirs, f"{name}_ratio": theirs / us, f"{name}_error": error}


def time_decode(case: DecodeCase, device: str, run: Callable[[], object]) -> Row:
    """The figures of one way to run a case."""
    limits = measure_limits(device)
    taken = seconds(run, device)
    gbs = 1e-9 * case.least_bytes / taken
    return {
        "us": 1e6 * taken,
        "megabytes": 1e-6 * case.least_bytes,
        "gbs": gbs,
        "of_copy": gbs / limits.copy_gbs,
    }
