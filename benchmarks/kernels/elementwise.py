"""Norm, activation, rope and sampling: against the copy bandwidth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import csrc_triton
from benchmarks.kernels.rows import Emit, Row, collect, ignore
from benchmarks.kernels.timing import measure_limits, seconds
from benchmarks.kernels.worlds import PAGE_SIZE, QWEN2_7B, Heads
from csrc_triton.checks import GATES, Gate

Transfer = tuple[int, Callable[[], object]]
"""The fewest bytes that must move, and the function that moves them."""


@dataclass(frozen=True, slots=True)
class ElementwiseCase:
    """Rows of one step of a model: Qwen2.5-7B's sizes.

    Attributes:
        rows: tokens of the step.
        hidden: width of the residual stream.
        intermediate: width of the MLP.
        vocab: of the logits; 0 leaves sampling out.
        heads: of the attention.
        dtype: of everything.
    """

    rows: int
    hidden: int = 3584
    intermediate: int = 18944
    vocab: int = 152064
    heads: Heads = QWEN2_7B
    dtype: torch.dtype = torch.bfloat16


CASES = [ElementwiseCase(64), ElementwiseCase(256), ElementwiseCase(8192, vocab=0)]
TINY = [ElementwiseCase(3, 32, 48, 50, Heads(4, 2, 16))]


def measure_elementwise(
    device: str,
    quick: bool = False,
    cases: Sequence[ElementwiseCase] | None = None,
    emit: Emit = ignore,
) -> list[Row]:
    """Time every kernel that is not attention, at each number of rows."""
    if cases is None:
        cases = TINY if device == "cpu" else CASES[1:] if quick else CASES
    rows = []
    for case in cases:
        for kernel, name, make in works(case):
            label = f"{name}, {case.rows} rows"
            rows += collect(kernel, [(label, make)], partial(_measure, device=device), emit)
    return rows


def _measure(make: Callable[[str], Transfer], device: str) -> Row:
    least_bytes, run = make(device)
    taken = seconds(run, device)
    gbs = 1e-9 * least_bytes / taken
    return {
        "us": 1e6 * taken,
        "megabytes": 1e-6 * least_bytes,
        "gbs": gbs,
        "of_copy": gbs / measure_limits(device).copy_gbs,
    }


def works(case: ElementwiseCase) -> Iterator[tuple[str, str, Callable[[str], Transfer]]]:
    """(kernel, name of its input, function that makes the transfer on a device) for each."""
    heads = case.heads
    for weight in (case.dtype, torch.float32):
        name = f"hidden {case.hidden} + residual{_named(weight, case)}"
        yield "rms_norm", name, partial(_norm, case, weight)
    yield "rms_norm", f"{heads.query} heads of {heads.dim}", partial(_head_norm, case)
    for gate in GATES:
        yield "gated_activation", f"{case.intermediate} {gate}", partial(_gate, case, gate)
    yield "rope_and_cache", f"{heads}", partial(_rope, case, None)
    for weight in (case.dtype, torch.float32):
        name = f"{heads} + qk-norm{_named(weight, case)}"
        yield "rope_and_cache", name, partial(_rope, case, weight)
    if case.vocab:
        for rule, columns in _RULES.items():
            yield "sample", f"{case.vocab} {rule}", partial(_sample, case, columns)
        yield "token_logprobs", f"{case.vocab}", partial(_logprobs, case)


def _named(weight: torch.dtype, case: ElementwiseCase) -> str:
    return "" if weight == case.dtype else ", fp32 weight"


def _norm(case: ElementwiseCase, dtype: torch.dtype, device: str) -> Transfer:
    x, residual = torch.randn(2, case.rows, case.hidden, device=device).to(case.dtype)
    weight = torch.ones(case.hidden, dtype=dtype, device=device)
    return 4 * _bytes(x), lambda: csrc_triton.rms_norm(x, weight, 1e-6, residual)


def _head_norm(case: ElementwiseCase, device: str) -> Transfer:
    heads = case.heads
    x = torch.randn(case.rows, heads.query, heads.dim, device=device).to(case.dtype)
    weight = torch.ones(heads.dim, dtype=case.dtype, device=device)
    return 2 * _bytes(x), lambda: csrc_triton.rms_norm(x, weight, 1e-6)


def _gate(case: ElementwiseCase, gate: Gate, device: str) -> Transfer:
    gate_up = torch.randn(case.rows, 2 * case.intermediate, device=device).to(case.dtype)
    return 3 * _bytes(gate_up) // 2, lambda: csrc_triton.gated_activation(gate_up, gate)


def _rope(case: ElementwiseCase, dtype: torch.dtype | None, device: str) -> Transfer:
    heads, rows = case.heads, case.rows
    fused = torch.randn(rows, heads.query + 2 * heads.kv, heads.dim, device=device).to(case.dtype)
    q, k, v = fused.split([heads.query, heads.kv, heads.kv], dim=1)
    pages = -(-rows // PAGE_SIZE)
    keys, values = torch.zeros(
        2, pages, PAGE_SIZE, heads.kv, heads.dim, dtype=case.dtype, device=device
    )
    cos_sin = torch.randn(rows, heads.dim, device=device)
    positions = torch.arange(rows, device=device)
    slots = torch.randperm(pages * PAGE_SIZE, device=device)[:rows]
    # q, k and v are read; q and both caches are written.
    moved = 2 * _bytes(fused) + _bytes(cos_sin)
    norm = torch.ones(heads.dim, dtype=dtype, device=device) if dtype else None
    return moved, lambda: csrc_triton.rope_and_cache(
        q, k, v, cos_sin, positions, keys, values, slots, q_norm=norm, k_norm=norm, eps=1e-6
    )


_RULES = {
    "greedy": {"temperature": 0.0},
    "plain": {},
    "top_p": {"top_p": 0.95},
    "top_k + top_p": {"top_k": 50, "top_p": 0.95},
}


def _logits(case: ElementwiseCase, device: str) -> Tensor:
    return (3 * torch.randn(case.rows, case.vocab, device=device)).to(case.dtype)


def _logprobs(case: ElementwiseCase, device: str) -> Transfer:
    logits, token_ids = _logits(case, device), torch.arange(case.rows, device=device)
    return _bytes(logits), lambda: csrc_triton.token_logprobs(logits, token_ids)


def _sample(case: ElementwiseCase, columns: dict[str, float], device: str) -> Transfer:
    rows, logits = case.rows, _logits(case, device)

    def column(name: str, default: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((rows,), columns.get(name, default), dtype=dtype, device=device)

    parameters = (
        column("temperature", 1.0),
        column("top_k", 0, torch.int64),
        column("top_p", 1.0),
        column("min_p", 0.0),
        torch.arange(rows, device=device),
        torch.zeros(rows, dtype=torch.int64, device=device),
    )
    return _bytes(logits), lambda: csrc_triton.sample(logits, *parameters)


def _bytes(x: Tensor) -> int:
    return x.numel() * x.dtype.itemsize
