"""Segments, pages and the prefix cache."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.engine.conftest import random_prompts
from gsr_engine import Engine, SamplingParams
from gsr_engine.kv.page_pool import PagePool
from gsr_engine.kv.prefix_cache import PrefixCache
from gsr_engine.kv.segments import Segment, Span
from gsr_engine.requests.generate import GenerateRequest
from gsr_engine.requests.request import Group
from gsr_engine.text.stopping import StopRule

_LENGTH, _SHARED = 256, 128
_PROMPTS = random_prompts(1000, _LENGTH, _SHARED)


@pytest.fixture
def cache() -> PrefixCache:
    """A cache of a thousand prompts that agree in their first half."""
    pool = PagePool(1000 * _LENGTH)
    cache = PrefixCache(pool)
    for prompt in _PROMPTS:
        segment = cache.new_prompt(prompt, "", most_pieces=100)
        pool.acquire(segment.context)
        pool.hold(segment, len(segment))
        cache.pin((*segment.context, Span(segment, 0, len(segment))), "")
    return cache


def test_prefix_match(benchmark: BenchmarkFixture, cache: PrefixCache) -> None:
    """Looking up a prompt of which all but the last token is cached."""
    segment = benchmark(cache.new_prompt, _PROMPTS[500], "", 100)
    if len(segment) != 1:
        raise AssertionError("the prompt was not found")


def test_prefix_pin(benchmark: BenchmarkFixture, cache: PrefixCache) -> None:
    """Pinning and unpinning a cached prompt."""
    prompt = Segment(_PROMPTS[500])
    context = (Span(prompt, 0, len(prompt)),)
    benchmark(lambda: cache.unpin(cache.pin(context, "")))


def test_fork(benchmark: BenchmarkFixture, decoding: Engine) -> None:
    """Sixteen siblings after one prompt."""
    params = SamplingParams(n=16, max_tokens=64, seed=0)
    request: GenerateRequest = decoding.new_generate(_PROMPTS[0], params)
    stop = StopRule.of(params, decoding.tokenizer)
    prompt, seeds = Segment(_PROMPTS[0]), list(range(16))

    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        group = Group(request, prompt, ("candidate_prefill", "candidate_decode"))
        return (group,), {}

    benchmark.pedantic(lambda group: group.fork(params, seeds, stop), setup=setup, rounds=2000)


def test_pages(benchmark: BenchmarkFixture) -> None:
    """Allocating and freeing 64 pages."""
    pool = PagePool(10_000)
    segment = Segment([0] * 1024)

    def run() -> None:
        pool.grow(segment, len(segment))
        pool.drop(segment, len(segment))

    benchmark(run)
