"""Prefill attention over chunks and contexts: against the rate of a matrix product, and peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import csrc_triton
from benchmarks.kernels.rows import Emit, Row, add, collect, ignore
from benchmarks.kernels.timing import measure_limits, seconds
from benchmarks.kernels.worlds import QWEN2_7B, QWEN3_8B, Cache, Heads, relative_error
from csrc_triton import PrefillPlan


@dataclass(frozen=True, slots=True)
class PrefillCase:
    """Some segments whose tokens are all new.

    Attributes:
        tokens: of each segment.
        segments: how many.
        context: lengths of the spans before each segment, which its rows see too.
        heads: of the model.
        dtype: of everything.
        peers: whether to time SDPA too, by its default backend and by cuDNN's; without `quick`,
            also FlexAttention, which compiles for 10 seconds.
    """

    tokens: int
    segments: int = 1
    context: tuple[int, ...] = ()
    heads: Heads = QWEN2_7B
    dtype: torch.dtype = torch.bfloat16
    peers: bool = True

    @property
    def flops(self) -> int:
        """Operations of the two products, over the tokens that each row sees."""
        seen = self.tokens * sum(self.context) + self.tokens * (self.tokens + 1) // 2
        return 4 * self.segments * seen * self.heads.query * self.heads.dim

    def __str__(self) -> str:
        name = f"{self.heads} {self.segments} x {self.tokens} tokens"
        return f"{name} after {'+'.join(map(str, self.context))}" if self.context else name


@dataclass(frozen=True, eq=False)
class PrefillWorld:
    """A case's tensors.

    Attributes:
        q: [segments * tokens, Hq, D].
        cache: the pages.
        plan: of the segments; each has spans of its own.
        scale: of the scores.
    """

    q: Tensor
    cache: Cache
    plan: PrefillPlan
    scale: float

    @classmethod
    def of(cls, case: PrefillCase, device: str) -> PrefillWorld:
        """Random numbers for one step."""
        lengths = [*case.context, case.tokens]
        cache = Cache.of(lengths * case.segments, case.heads, case.dtype, device)
        plan = PrefillPlan.from_segments(
            [(spans[-1], spans[:-1]) for spans in _contexts(cache, len(lengths))],
            device,
            csrc_triton.prefill_tiling(case.heads.query, cache.keys),
        )
        rows = case.segments * case.tokens
        q = torch.randn(rows, case.heads.query, case.heads.dim, device=device).to(case.dtype)
        return cls(q, cache, plan, case.heads.dim**-0.5)

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, PrefillPlan, float]:
        """Of `csrc_triton.prefill_attention`."""
        return self.q, self.cache.keys, self.cache.values, self.plan, self.scale


def _contexts(cache: Cache, each: int) -> list[list[csrc_triton.PagedSpan]]:
    return [cache.spans[i : i + each] for i in range(0, len(cache.spans), each)]


CASES = [
    *(PrefillCase(tokens) for tokens in (512, 2048, 8192, 16384)),
    PrefillCase(512, segments=16),
    PrefillCase(512, segments=4, context=(4096, *[512] * 8)),
    PrefillCase(2048, segments=4, context=(4096,)),
    PrefillCase(8192, heads=QWEN3_8B),
]
QUICK = [PrefillCase(2048), PrefillCase(8192), CASES[5]]
TINY = [
    PrefillCase(9, heads=Heads(4, 2, 16)),
    PrefillCase(5, segments=2, context=(7, 3), heads=Heads(4, 2, 16)),
]


def measure_prefill(
    device: str,
    quick: bool = False,
    cases: Sequence[PrefillCase] | None = None,
    emit: Emit = ignore,
) -> list[Row]:
    """Time prefill attention."""
    if cases is None:
        cases = TINY if device == "cpu" else QUICK if quick else CASES
    named = [(str(case), case) for case in cases]
    return collect("prefill", named, partial(_measure, device=device, quick=quick), emit)


def _measure(case: PrefillCase, device: str, quick: bool) -> Row:
    world = PrefillWorld.of(case, device)
    run = partial(csrc_triton.prefill_attention, *world.arguments())
    row = time_prefill(case, device, run)
    if case.peers:
        keys, values = world.cache.dense(_contexts(world.cache, len(case.context) + 1))
        q = world.q.unflatten(0, (case.segments, case.tokens)).transpose(1, 2).contiguous()
        for name, prepare in list(_PEERS.items())[: 2 if quick else None]:
            peer = partial(prepare, q, keys, values)
            add(row, f"{name}_failed", partial(_against, row["us"], name, peer, run(), device))
    return row


def _sdpa(q: Tensor, keys: Tensor, values: Tensor) -> Callable[[], Tensor]:
    mask = causal_lower_right(q.shape[2], keys.shape[2])
    return lambda: F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)


def _cudnn(q: Tensor, keys: Tensor, values: Tensor) -> Callable[[], Tensor] | None:
    """SDPA by cuDNN, on Hopper the fastest that torch ships; None where there is no GPU.

    A mask takes cuDNN off its causal path, so only rows behind a context get one. Keys and values
    are repeated beforehand: not every version takes grouped heads, and the products are the same.
    """
    if not q.is_cuda:
        return None
    group, mask = q.shape[1] // keys.shape[1], None
    keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
    if q.shape[2] != keys.shape[2]:
        mask = torch.ones(q.shape[2], keys.shape[2], dtype=torch.bool, device=q.device)
        mask = mask.tril(keys.shape[2] - q.shape[2])

    def run() -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return F.scaled_dot_product_attention(
                q, keys, values, attn_mask=mask, is_causal=mask is None
            )

    return run


def _flex(q: Tensor, keys: Tensor, values: Tensor) -> Callable[[], Tensor]:
    """FlexAttention, compiled on a GPU; without compilation it materialises all scores."""
    before = keys.shape[2] - q.shape[2]
    mask = create_block_mask(
        lambda _batch, _head, row, token: token <= row + before,
        None,
        None,
        q.shape[2],
        keys.shape[2],
        device=str(q.device),
    )
    attend = torch.compile(flex_attention, dynamic=False) if q.is_cuda else flex_attention
    return lambda: attend(q, keys, values, block_mask=mask, enable_gqa=True)


_Prepare = Callable[[Tensor, Tensor, Tensor], Callable[[], Tensor] | None]
_PEERS: dict[str, _Prepare] = {"sdpa": _sdpa, "cudnn": _cudnn, "flex": _flex}


def _against(
    us: float,
    name: str,
    prepare: Callable[[], Callable[[], Tensor] | None],
    out: Tensor,
    device: str,
) -> Row:
    run = prepare()
    if run is None:
        return {}
    theirs = 1e6 * seconds(run, device)
    error = relative_error(out, run().transpose(1, 2).flatten(0, 1))
    return {f"{name}_us": theirs, f"{name}_ratio": theirs / us, f"{name}_error": error}


def time_prefill(case: PrefillCase, device: str, run: Callable[[], object]) -> Row:
    """The figures of one way to run a case."""
    taken = seconds(run, device)
    tflops = 1e-12 * case.flops / taken
    return {
        "us": 1e6 * taken,
        "tflops": tflops,
        "of_matmul": tflops / measure_limits(device).matmul_tflops,
    }
