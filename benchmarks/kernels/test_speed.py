"""The kernels with pytest-benchmark, to be kept and compared.

    python -m pytest benchmarks/kernels --benchmark-json kernels.json
    python -m pytest benchmarks/kernels --benchmark-save=before     # then --benchmark-compare

Each prints what it achieved and its share of what the chip can do. Here caches are warm and a round
is the replay of a graph with its launch; `python -m benchmarks.kernels` empties the L2 cache. On a
CPU the references run over tiny cases.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import csrc_triton
from benchmarks.kernels import decode, elementwise, prefill
from benchmarks.kernels.decode import DecodeCase, DecodeWorld
from benchmarks.kernels.elementwise import Transfer
from benchmarks.kernels.prefill import PrefillCase, PrefillWorld
from benchmarks.kernels.timing import captured, measure_limits

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
WORKS = [
    pytest.param(make, id=f"{kernel}, {name}, {case.rows} rows")
    for case in (elementwise.CASES if ON_GPU else elementwise.TINY)
    for kernel, name, make in elementwise.works(case)
]
Show = Callable[[Callable[[], object], str, float, float], None]


@pytest.fixture
def show(benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str]) -> Show:
    """Times a run and prints what it achieves by its median, and of which limit that is a share."""

    def measure(run: Callable[[], object], unit: str, amount: float, limit: float) -> None:
        again = captured(run) if ON_GPU else run

        def once() -> None:
            again()
            if ON_GPU:
                torch.cuda.synchronize()

        benchmark(once)
        if benchmark.stats is None:  # --benchmark-disable
            return
        achieved = amount / benchmark.stats.stats.median
        benchmark.extra_info |= {unit: achieved, "share of the limit": achieved / limit}
        with capsys.disabled():
            print(f"\n{benchmark.name}: {achieved:.4g} {unit}, {achieved / limit:.0%} of the limit")

    return measure


@pytest.mark.parametrize("case", decode.CASES if ON_GPU else decode.TINY, ids=str)
def test_decode(show: Show, case: DecodeCase) -> None:
    """Work-list attention and the merging."""
    world = DecodeWorld.of(case, DEVICE)
    run = partial(csrc_triton.decode_attention, *world.arguments())
    show(run, "GB/s", 1e-9 * case.least_bytes, measure_limits(DEVICE).copy_gbs)


@pytest.mark.parametrize("case", prefill.CASES if ON_GPU else prefill.TINY, ids=str)
def test_prefill(show: Show, case: PrefillCase) -> None:
    """Attention of chunks over spans."""
    world = PrefillWorld.of(case, DEVICE)
    run = partial(csrc_triton.prefill_attention, *world.arguments())
    show(run, "TFLOP/s", 1e-12 * case.flops, measure_limits(DEVICE).matmul_tflops)


@pytest.mark.parametrize("make", WORKS)
def test_elementwise(show: Show, make: Callable[[str], Transfer]) -> None:
    """Norm, activation, rope and sampling."""
    least_bytes, run = make(DEVICE)
    show(run, "GB/s", 1e-9 * least_bytes, measure_limits(DEVICE).copy_gbs)
