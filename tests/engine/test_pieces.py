"""A prompt is found in few pieces whatever came before: long ones are shared, others copied."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.attention.kv_cache import KVCache
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.demo.report import NANO
from gsr_engine.kv.segments import pages_for
from gsr_engine.params import Layout
from tests.helpers.pieces import check_pieces

SMALL = {"kv_cache_gib": 0.01, "max_model_len": 1024}


def greedy(tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)


def talk(engine: Engine, turns: int, user: int, tokens: int) -> tuple[list[int], list[int]]:
    """A conversation: all its tokens, and how many tokens each turn reused."""
    rng = random.Random(0)
    said: list[int] = []
    reused = []
    for _ in range(turns):
        said += [rng.randrange(6, engine.limits.vocab_size) for _ in range(user)]
        request = engine.new_generate(said, greedy(tokens))
        engine.submit(request)
        while engine.has_work:
            engine.step()
            for group in request.groups:
                check_pieces(group.context)
        engine.check()
        assert request.result is not None
        said += request.result.completions[0].token_ids
        reused.append(request.result.usage.phases["candidate_prefill"].reused_cache)
    return said, reused


@pytest.mark.parametrize(("user", "tokens"), [(7, 5), (40, 30), (3, 150), (200, 2)])
def test_a_turn_reuses_everything_that_was_said_before(qwen2: Path, user: int, tokens: int) -> None:
    turns = 700 // (user + tokens)
    with Engine.from_pretrained(qwen2, **SMALL) as engine:
        said, reused = talk(engine, turns, user, tokens)
    # All but the last token drawn, which was never fed; but what is shorter than 16 tokens is not.
    known = [turn * (user + tokens) - 1 for turn in range(1, turns)]
    assert reused == [0, *(length if length >= 16 else 0 for length in known)]
    with Engine.from_pretrained(qwen2, prefix_cache=False, **SMALL) as engine:
        assert talk(engine, turns, user, tokens)[0] == said


def test_a_caller_who_asks_token_by_token_computes_one_token_a_call(qwen2: Path) -> None:
    prompt = list(range(6, 46))
    with Engine.from_pretrained(qwen2, **SMALL) as engine:
        for _ in range(260):
            result = engine.generate([prompt], greedy(1))[0]
            phase = result.usage.phases["candidate_prefill"]
            assert phase.tokens_computed + phase.reused_cache == len(prompt)
            assert phase.tokens_computed == (40 if len(prompt) == 40 else 1)
            assert result.usage.peak_pages <= 1.125 * len(prompt) / 16 + 3
            prompt = [*prompt, *result.completions[0].token_ids]
        engine.check()
        assert engine.stats()["pages_cached"] <= pages_for(len(prompt)) + len(prompt) // 128
        alone = engine.generate([prompt[:40]], greedy(260))[0]
    assert alone.completions[0].token_ids == prompt[40:]


def test_copied_kv_has_the_bits_that_were_computed() -> None:
    """The first draw after a copy has the very bits that it has after the computation."""
    prompt = [7, 8, 9] * 20
    with Engine.from_pretrained(NANO, dtype="float32", **SMALL) as engine:
        first = engine.generate([prompt], greedy(1))[0].completions[0]
        again = engine.generate([prompt], greedy(1))[0]
        assert again.usage.phases["candidate_prefill"].reused_cache == len(prompt) - 1
    cache = KVCache(ModelConfig.from_folder(NANO), 8, torch.float32, torch.device("cpu"))
    for pages in (cache.keys, cache.values):
        pages.normal_()
    befores = [pages.flatten(1, 2).clone() for pages in (cache.keys, cache.values)]
    cache.copy(np.array([3, 40, 41]), np.array([100, 90, 17]))
    for before, pages in zip(befores, (cache.keys, cache.values), strict=True):
        after = pages.flatten(1, 2)
        assert torch.equal(after[:, [100, 90, 17]], before[:, [3, 40, 41]])
        others = [slot for slot in range(before.shape[1]) if slot not in (100, 90, 17)]
        assert torch.equal(after[:, others], before[:, others])
    assert first.token_ids == again.completions[0].token_ids


@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_a_refinement_of_a_known_problem_has_few_pieces(layout: Layout) -> None:
    params = SelfRefineParams(k=3, layout=layout, seed=1)
    branched = params.k if layout == "branched" else 0
    with Engine.from_pretrained(NANO, dtype="float32", **SMALL) as engine:
        for problem in ("12 * 3 * 4 * 5 * 6", "12 * 3 * 4 * 5 * 7", "12 * 3 * 4 * 5 * 6"):
            request = engine.new_self_refine(problem, params)
            engine.submit(request)
            while engine.has_work:
                engine.step()
                for group in request.groups:
                    check_pieces(group.context, branched if group.is_refinement else 0)
            assert request.result is not None
            assert request.result.error is None
