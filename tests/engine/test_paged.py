"""The GPU's runner, on CPU tensors: work lists, padded graph shapes, steps launched ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gsr_engine import Completion, Engine, RefineResult, SamplingParams, SelfRefineParams
from gsr_engine.checkpoint.gsr_config import GsrConfig
from tests.engine.test_greedy import SHORT, assert_best, prompts
from tests.helpers.checkpoints import load_oracle
from tests.helpers.paged import paged_engine
from tests.helpers.steps import run_checked

pytestmark = pytest.mark.slow

# Lengths inside an item, at its end and beyond it; of one page, and of several.
LENGTHS = (1, 15, 16, 17, 250, 256, 257, 530)
OPTIONS: dict[str, Any] = {"max_num_seqs": 64, "max_batch_tokens": 256}


@pytest.fixture(scope="module")
def refining(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that claims both layouts."""
    folder = tmp_path_factory.mktemp("refining")
    for file in checkpoints["llama3"].iterdir():
        (folder / file.name).symlink_to(file)
    GsrConfig(layouts=("linear", "branched")).save(folder)
    return folder


def completions(engine: Engine) -> list[Completion]:
    """All completions of some requests that run at the same time."""
    plain = SamplingParams(n=3, max_tokens=30, seed=5)
    several = [
        plain,
        SamplingParams(max_tokens=40, seed=6, stop=("a", "7"), top_logprobs=2),
        SamplingParams(n=2, max_tokens=12, seed=7, repetition_penalty=1.3, min_tokens=5),
    ]
    for index, length in enumerate(LENGTHS):
        prompt = [5 + (i * i + index) % 80 for i in range(length)]
        engine.submit(engine.new_generate(prompt, several[index % 3], index=index))
    for layout in ("linear", "branched"):
        params = SelfRefineParams(k=3, layout=layout, candidate=SHORT, refinements=2, seed=1)
        for index in range(2):
            engine.submit(engine.new_self_refine(f"{index} and 1", params, index=index))
    results = {}
    while engine.has_work:
        for request in engine.step():
            results[request.queue_position] = request.result
        engine.check()
    assert engine.stats()["pages_used"] == 0
    found: list[Completion] = []
    for place in sorted(results):
        result = results[place]
        if isinstance(result, RefineResult):
            found += [*result.candidates, *(c for one in result.rounds for c in one)]
        else:
            found += result.completions
    return found


@pytest.fixture(scope="module")
def expected(refining: Path) -> list[Completion]:
    with Engine.from_pretrained(refining, **OPTIONS) as engine:
        return completions(engine)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize("share_spans", [True, False])
def test_draws_the_same_tokens(
    lag: int, cuda_graphs: bool, share_spans: bool, refining: Path, expected: list[Completion]
) -> None:
    ways: dict[str, Any] = {"cuda_graphs": cuda_graphs, "share_spans": share_spans}
    with paged_engine(refining, lag, **OPTIONS, **ways) as engine:
        found = completions(engine)
        shared = engine.stats()["shared_spans"]
    for mine, other in zip(found, expected, strict=True):
        assert mine.token_ids == other.token_ids
        assert mine.text == other.text
        assert mine.finish_reason == other.finish_reason
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert (shared["tokens_saved"] > 0) == share_spans
    assert (shared["spans_apart"] > 0) != share_spans


KINDS = ["qwen3moe", "phi3-partial", "smollm3", "olmo3", "ministral3", "gemma3"]


@pytest.mark.parametrize("family", KINDS)
def test_every_kind_of_layer_draws_the_same_tokens(
    family: str, checkpoints: dict[str, Path]
) -> None:
    """Windows, layers without rotation, growing queries and experts in padded graph shapes."""
    prompts = [[5 + (i * i + length) % 80 for i in range(length)] for length in (3, 40, 260)]
    params = SamplingParams(n=3, max_tokens=12, seed=5, ignore_eos=True)
    with Engine.from_pretrained(checkpoints[family], **OPTIONS) as engine:
        plain = [c for one in engine.generate(prompts, params) for c in one.completions]
    with paged_engine(checkpoints[family], 1, **OPTIONS) as engine:
        graphs = [c for one in engine.generate(prompts, params) for c in one.completions]
    for mine, other in zip(graphs, plain, strict=True):
        assert mine.token_ids == other.token_ids
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("gib", [0.5, 0.00022])
def test_greedy_under_memory_pressure(lag: int, gib: float, qwen2: Path) -> None:
    oracle = load_oracle(qwen2)
    with paged_engine(
        qwen2, lag, kv_cache_gib=gib, max_batch_tokens=17, max_num_seqs=16, prefix_cache=False
    ) as engine:
        requests = [engine.new_generate(prompt, SHORT) for prompt in prompts()]
        run_checked(engine, requests)
        assert bool(engine.stats()["preemptions"]) == (gib < 0.1)
        for request in requests:
            assert_best(oracle, request.streams[0])
