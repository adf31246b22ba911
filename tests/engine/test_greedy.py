"""Greedy tokens equal those of transformers, also after preemptions, cache hits and sharing.

The comparison allows for ties. Every token must be the oracle's best after the tokens before it,
up to the rounding of fp32.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from benchmarks.oracle import TIE, shortfalls, stream_logits
from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.requests.request import Stream
from tests.helpers.checkpoints import load_oracle
from tests.helpers.steps import run_checked

pytestmark = pytest.mark.slow

SHORT = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)
BEGINNING = [5 + i % 80 for i in range(33)]


def prompts() -> list[list[int]]:
    """Prompts that share 33 tokens; lengths at, below and above page bounds; two are equal."""
    lengths = [34, 47, 48, 49, 63, 64, 65, 64]
    ends = [[6 + (7 * i + j) % 70 for j in range(n - 33)] for i, n in enumerate(lengths[:-1])]
    return [BEGINNING + end for end in [*ends, ends[-2]]]


def assert_best(oracle: PreTrainedModel, stream: Stream) -> None:
    logits = stream_logits(oracle, stream.segment)
    assert bool((shortfalls(logits, stream.segment.token_ids) < TIE).all())


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("gib", [0.5, 0.00022])
@pytest.mark.parametrize("chunk", [16, 17, 64])
@pytest.mark.parametrize("together", [True, False])
def test_generate(cache: bool, gib: float, chunk: int, together: bool, qwen2: Path) -> None:
    oracle = load_oracle(qwen2)
    options = {"prefix_cache": cache, "kv_cache_gib": gib, "max_batch_tokens": chunk}
    with Engine.from_pretrained(qwen2, max_num_seqs=16, **options) as engine:
        requests = [engine.new_generate(prompt, SHORT) for prompt in prompts()]
        for request in requests:
            engine.submit(request)
            while engine.has_work and not together:
                engine.step()
        while engine.has_work:
            engine.step()
            engine.check()
        tight = gib < 0.1 and together
        if tight != cache:  # behind a shared beginning they may all fit even the small pool
            assert bool(engine.stats()["preemptions"]) == tight
        hits = engine.stats()["prefix_cache"]
        # In a small pool what would be copied may have been evicted.
        assert hits is None or hits["hit_tokens"] >= 33 * (5 if tight else 7)
        for request in requests:
            assert_best(oracle, request.streams[0])


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("gib", [0.5, 0.0008])
@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_self_refine(cache: bool, gib: float, layout: str, qwen2: Path, tmp_path: Path) -> None:
    oracle = load_oracle(qwen2)
    folder = tmp_path / "c"
    folder.mkdir()
    for file in qwen2.iterdir():
        (folder / file.name).symlink_to(file)
    GsrConfig(layouts=("linear", "branched")).save(folder)
    params = SelfRefineParams(k=3, layout=layout, candidate=SHORT, refine=SHORT, seed=2)  # type: ignore[arg-type]
    options = {"prefix_cache": cache, "kv_cache_gib": gib}
    with Engine.from_pretrained(folder, max_batch_tokens=64, max_num_seqs=32, **options) as engine:
        requests = [engine.new_self_refine(f"{i}+{i}", params) for i in (1, 2, 3, 1)]
        run_checked(engine, requests)
        assert bool(engine.stats()["preemptions"]) == (gib < 0.1)
        for request in requests:
            for stream in (*request.candidates, request.refinement):
                assert stream
                assert_best(oracle, stream)
