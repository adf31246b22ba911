"""CPU kernels on torch's threads: in several Python threads at once, and with few tasks."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import csrc_triton
from csrc_triton import PagedSpan, PrefillPlan, cache_views, pack_weight


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_call_with_few_tasks_ends_no_thread() -> None:
    def threads() -> set[str]:
        return {task.name for task in Path("/proc/self/task").iterdir()}

    many, few = torch.randn(200, 2000), torch.randn(2, 20000)
    csrc_triton.gated_activation(many, "silu")
    before = threads()
    for x in (few, many, few, many):
        csrc_triton.gated_activation(x, "silu")
        assert threads() >= before


def test_python_threads_with_small_stacks_compute_at_once() -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(n, 512, generator=generator) for n in (100, 700))
    packed = pack_weight(weight)
    pages = torch.randn(2, 20, 16 * 2 * 256, generator=generator)
    k_cache, v_cache = cache_views(*pages, 16, 2, 256)
    q = torch.randn(100, 14, 256, generator=generator)
    plan = PrefillPlan.from_segments([(PagedSpan(list(range(20)), 200, 300), [])])

    def computed() -> tuple[torch.Tensor, torch.Tensor]:
        attended = csrc_triton.prefill_attention(q, k_cache, v_cache, plan, 0.06)
        return attended, csrc_triton.packed_linear(x, packed, None, 700)

    expected, same = computed(), []

    def work(count: int) -> None:
        torch.set_num_threads(count)
        for _ in range(5):
            same.append(all(map(torch.equal, computed(), expected)))

    before = threading.stack_size(512 * 1024)  # that of macOS's threads
    workers = [threading.Thread(target=work, args=(count,)) for count in (1, 2, 4)]
    try:
        for worker in workers:
            worker.start()
    finally:
        threading.stack_size(before)
    for worker in workers:
        worker.join()
    assert same == [True] * 15
