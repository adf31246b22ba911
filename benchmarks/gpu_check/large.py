"""Are the kernels right: real sizes, which no test reaches, against references on the same device.

In bf16, which the engine computes in; the tests of part `kernel-tests` take every dtype.

Numbers that belong to no token are NaN. The error is that of the worst row: ‖out − expected‖ /
‖expected‖ over the numbers of one head or of one token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import csrc_triton
from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting
from csrc_triton import PagedSpan, PrefillPlan, Routing, WorkList, reference
from csrc_triton.reference_experts import grouped_linear
from gsr_engine.attention.pieces import SPLIT
from gsr_engine.kv.segments import PAGE_SIZE

# The reference holds the scores of this many rows of a prefill at a time.
_ROWS_AT_A_TIME = 512
_DTYPE, _BOUND = torch.bfloat16, 1e-2
# At the edge of the kept tokens, rounding decides which token is drawn.
_LEAST_AGREEMENT = 0.97


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Sizes of all cases; `far_pages` pages hold more than 2^31 numbers."""

    query_heads: int
    kv_heads: int
    head_dim: int
    far_pages: int
    context: int
    rows: int
    siblings: int
    chunk: int
    hidden: int
    intermediate: int
    vocab: int
    experts: int
    expert_width: int


# Qwen2.5-7B's, and the experts of Qwen3-30B-A3B.
_REAL = _Sizes(28, 4, 128, 2**18 + 4096, 32_768, 256, 16, 8192, 3584, 18_944, 152_064, 128, 768)
_TINY = _Sizes(4, 2, 16, 300, 256, 6, 3, 40, 32, 48, 100, 8, 20)
_Case = Callable[[_Sizes, torch.dtype, str], float]
"""(sizes, dtype, device) to the worst error."""


def run(setting: Setting, record: Record) -> None:
    """Every case; some have a pool of more than 2^31 numbers."""
    sizes = _TINY if setting.tiny else _REAL
    record.attempt("real sizes", "sample", partial(_sample, sizes, setting.device))
    for name, case in _CASES.items():
        record.attempt("real sizes", name, partial(_judge, case, sizes, setting))


def _judge(case: _Case, sizes: _Sizes, setting: Setting) -> Row:
    setting.free_memory()
    torch.manual_seed(0)
    error = case(sizes, _DTYPE, setting.device)
    return {"error": error, "bound": _BOUND, "passed": error <= _BOUND}


def worst_error(out: Tensor, expected: Tensor) -> float:
    """The largest error of a row (the last dim); NaN if an error is NaN."""
    wide = expected.float()
    return float(((out.float() - wide).norm(dim=-1) / wide.norm(dim=-1)).max())


def _worst_of(out: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    errors = [worst_error(*pair) for pair in zip(out, expected, strict=True)]
    return float(torch.tensor(errors).max())  # Python's `max` may overlook a NaN


class _Pool:
    """A pool whose pages are allocated from both ends in turn; free pages hold NaN."""

    def __init__(self, pages: int, sizes: _Sizes, dtype: torch.dtype, device: str) -> None:
        shape = (pages, PAGE_SIZE, sizes.kv_heads, sizes.head_dim)
        self.keys, self.values = (
            torch.full(shape, torch.nan, dtype=dtype, device=device) for _ in range(2)
        )
        self._scale = sizes.head_dim**-0.5
        self._query_heads = sizes.query_heads
        pairs = zip(range(pages // 2), reversed(range(pages)), strict=False)
        self._free: Iterator[int] = (page for pair in pairs for page in pair)

    def segment(self, tokens: int) -> PagedSpan:
        """A span of `tokens` tokens with random keys and values."""
        pages = [next(self._free) for _ in range(-(-tokens // PAGE_SIZE))]
        places = torch.tensor(pages, device=self.keys.device)
        for cache in (self.keys, self.values):
            cache[places] = torch.randn_like(cache[places])
            cache[pages[-1], tokens - PAGE_SIZE * (len(pages) - 1) :] = torch.nan
        return PagedSpan(pages, 0, tokens)

    def _queries(self, rows: int) -> Tensor:
        shape = (rows, self._query_heads, self.keys.shape[-1])
        return torch.randn(shape, device=self.keys.device).to(self.keys.dtype)

    def decode_error(self, pairs: Sequence[tuple[Sequence[int], PagedSpan]], rows: int) -> float:
        """The error of decode attention over (rows, span) pairs, for `rows` query rows."""
        work = WorkList.from_spans(pairs, rows, SPLIT, self.keys.device)
        arguments = (self._queries(rows), self.keys, self.values, work, self._scale)
        partials = reference.decode_attention_partials(*arguments)
        expected = reference.reduce_partials(*partials, work, self.keys.dtype)
        return worst_error(csrc_triton.decode_attention(*arguments), expected)

    def prefill_error(self, chunk: PagedSpan, context: Sequence[PagedSpan]) -> float:
        """The error of prefill attention of a chunk; the reference computes some rows at a time."""
        q = self._queries(chunk.stop - chunk.start)
        out = self._prefill(csrc_triton.prefill_attention, q, chunk, context)
        parts = []
        for begin in range(chunk.start, chunk.stop, _ROWS_AT_A_TIME):
            some = chunk._replace(start=begin, stop=min(begin + _ROWS_AT_A_TIME, chunk.stop))
            rows = slice(some.start - chunk.start, some.stop - chunk.start)
            parts.append(self._prefill(reference.prefill_attention, q[rows], some, context))
        return worst_error(out, torch.cat(parts))

    def _prefill(
        self,
        attend: Callable[..., Tensor],
        q: Tensor,
        chunk: PagedSpan,
        context: Sequence[PagedSpan],
    ) -> Tensor:
        plan = PrefillPlan.from_segments([(chunk, context)], self.keys.device)
        return attend(q, self.keys, self.values, plan, self._scale)


def _long_contexts(sizes: _Sizes, dtype: torch.dtype, device: str) -> float:
    pool = _Pool(sizes.context // 4 + 8, sizes, dtype, device)
    pairs = [([row], pool.segment(sizes.context - 7 * row)) for row in range(4)]
    return pool.decode_error(pairs, 4)


def _many_rows(sizes: _Sizes, dtype: torch.dtype, device: str) -> float:
    pool = _Pool(sizes.rows * (sizes.context // 512 + 2), sizes, dtype, device)
    tokens = sizes.context // 32
    pairs = [([row], pool.segment(tokens + row % 9)) for row in range(sizes.rows)]
    return pool.decode_error(pairs, sizes.rows)


def _siblings(sizes: _Sizes, dtype: torch.dtype, device: str) -> float:
    """Groups that read their problem together; the rows of a group are not adjacent."""
    groups = sizes.rows // sizes.siblings
    problem, own = sizes.context // 8, sizes.context // 128
    pages = groups * (problem // PAGE_SIZE + 1) + sizes.rows * (own // PAGE_SIZE + 1)
    pool = _Pool(2 * pages, sizes, dtype, device)
    pairs: list[tuple[Sequence[int], PagedSpan]] = [
        (range(group, sizes.rows, groups), pool.segment(problem - group)) for group in range(groups)
    ]
    pairs += [([row], pool.segment(own)) for row in range(sizes.rows)]
    return pool.decode_error(pairs, sizes.rows)


def _prefill(sizes: _Sizes, dtype: torch.dtype, device: str) -> float:
    """A later chunk of its segment, after two spans that begin and end inside pages."""
    pool = _Pool(2 * (sizes.context + sizes.chunk) // PAGE_SIZE, sizes, dtype, device)
    first, second = pool.segment(sizes.context // 2), pool.segment(sizes.context // 4)
    own = pool.segment(sizes.chunk + 37)
    context = [first._replace(start=5, stop=first.stop - 3), second._replace(start=1)]
    return pool.prefill_error(own._replace(start=37), context)


def _far_decode(sizes: _Sizes, dtype: torch.dtype, device: str) -> float:
    pool = _Pool(sizes.far_pages, sizes, dtype, device)
    pairs = [([row], pool.segment(sizes.context // 16)) for row in range(8)]
    return pool.decode_error(pairs, 8)


def _far_prefill(sizes: _Sizes, dtype: torch.dtype, device: str) -> float:
    pool = _Pool(sizes.far_pages, sizes, dtype, device)
    context = [pool.segment(sizes.context // 16)]
    return pool.prefill_error(pool.segment(sizes.chunk // 8), context)


def _far_rope(sizes: _Sizes, dtype: torch.dtype, device: str) -> float:
    """Rope and store, into slots at both ends of the pool; the reference has a small pool."""
    pool = _Pool(sizes.far_pages, sizes, dtype, device)
    rows, heads, kv_heads, dim = sizes.rows, sizes.query_heads, sizes.kv_heads, sizes.head_dim
    fused = torch.randn(rows, heads + 2 * kv_heads, dim, device=device).to(dtype)
    q, k, v = fused.split([heads, kv_heads, kv_heads], dim=1)
    cos_sin = torch.randn(sizes.context, dim, device=device)
    inputs = (q, k, v, cos_sin, torch.randint(sizes.context, (rows,), device=device))
    half, slots = rows // 2, PAGE_SIZE * sizes.far_pages
    ends = torch.cat((torch.arange(half), torch.arange(slots - rows + half, slots))).to(device)
    small = torch.zeros(
        2, -(-rows // PAGE_SIZE), PAGE_SIZE, kv_heads, dim, dtype=dtype, device=device
    )
    near = torch.arange(rows, device=device)
    out = csrc_triton.rope_and_cache(*inputs, pool.keys, pool.values, ends)
    expected = reference.rope_and_cache(*inputs, small[0], small[1], near)
    stored = [cache.flatten(0, 1)[ends] for cache in (pool.keys, pool.values)]
    return _worst_of((out, *stored), (expected, *small.flatten(1, 2)[:, near]))


def _norm(sizes: _Sizes, dtype: torch.dtype, device: str) -> float:
    x, residual = torch.randn(2, sizes.chunk, sizes.hidden, device=device).to(dtype)
    weight = torch.randn(sizes.hidden, device=device).to(dtype)
    out = csrc_triton.rms_norm(x, weight, 1e-6, residual)
    expected = reference.rms_norm(x, weight, 1e-6, residual)
    return _worst_of(out, tuple(expected))


def _gate(sizes: _Sizes, dtype: torch.dtype, device: str) -> float:
    gate_up = torch.randn(sizes.chunk, 2 * sizes.intermediate, device=device).to(dtype)
    return worst_error(
        csrc_triton.gated_activation(gate_up, "silu"), reference.gated_activation(gate_up, "silu")
    )


def _experts(tokens: int | None, sizes: _Sizes, dtype: torch.dtype, device: str) -> float:
    tokens, width = tokens or sizes.chunk, sizes.expert_width
    x = torch.randn(tokens, sizes.hidden, device=device).to(dtype)
    scores = torch.rand(tokens, sizes.experts, device=device)
    routing = Routing.of(scores.topk(min(8, sizes.experts)).indices, sizes.experts)
    weights = torch.empty(sizes.experts, 2 * width, sizes.hidden, dtype=dtype, device=device)
    weights.normal_(std=sizes.hidden**-0.5)
    out = csrc_triton.grouped_linear(x, weights, routing, width, gate="silu")
    return worst_error(out, grouped_linear(x, weights, routing, width, "silu"))


def _logprobs(sizes: _Sizes, dtype: torch.dtype, device: str) -> float:
    logits = (3 * torch.randn(sizes.rows, sizes.vocab, device=device)).to(dtype)
    token_ids = torch.randint(sizes.vocab, (sizes.rows,), device=device)
    found = csrc_triton.token_logprobs(logits, token_ids)
    return worst_error(found[:, None], reference.token_logprobs(logits.float(), token_ids)[:, None])


_CASES: dict[str, _Case] = {
    "decode, few rows, long contexts": _long_contexts,
    "decode, many rows": _many_rows,
    "decode, siblings": _siblings,
    "prefill behind long contexts": _prefill,
    "rms_norm": _norm,
    "gated_activation": _gate,
    "experts, few tokens": partial(_experts, 3),
    "experts, many tokens": partial(_experts, None),
    "token_logprobs": _logprobs,
    "decode, large pool": _far_decode,
    "prefill, large pool": _far_prefill,
    "rope_and_cache, large pool": _far_rope,
}


def _sample(sizes: _Sizes, device: str) -> Row:
    """A real vocabulary. A quarter of the rows each is greedy, plain, top-k and top-p."""
    torch.manual_seed(0)
    rows = sizes.rows
    logits = 3 * torch.randn(rows, sizes.vocab, device=device)
    way = torch.arange(rows, device=device) % 4
    arguments = (
        logits,
        torch.where(way == 0, 0.0, 0.8),
        torch.where(way == 2, 50, 0),
        torch.where(way == 3, 0.95, 1.0),
        torch.zeros(rows, device=device),
        torch.arange(rows, device=device),
        torch.zeros(rows, dtype=torch.int64, device=device),
    )
    same = csrc_triton.sample(*arguments) == reference.sample(*arguments)
    greedy, drawn = (float(same[rows_].float().mean()) for rows_ in (way == 0, way > 0))
    passed = greedy == 1.0 and drawn >= _LEAST_AGREEMENT
    return {"greedy_agrees": greedy, "drawn_agrees": drawn, "passed": passed}
