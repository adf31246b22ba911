"""`prompt_logprobs`: what the tokens of a prompt are worth, as transformers has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.oracle import causal_logits
from gsr_engine import Engine, InvalidRequest, PromptLogprobs, SamplingParams, SelfRefineParams
from gsr_engine.execution.prompt_logprobs import SCORED_ROWS
from gsr_engine.model.decoder import Decoder
from gsr_engine.requests.generate import GenerateRequest
from gsr_engine.requests.prompt_scores import PromptScores
from tests.helpers.checkpoints import load_oracle
from tests.helpers.drafts import FREE
from tests.helpers.paged import paged_engine
from tests.helpers.steps import run_checked

pytestmark = pytest.mark.slow

WHOLE: dict[str, Any] = {}
CHUNKED = {"max_batch_tokens": 24, "max_num_seqs": 24}
LENGTHS = [1, 2, 16, 17, SCORED_ROWS, SCORED_ROWS + 1, SCORED_ROWS + 2, 3 * SCORED_ROWS + 5]
PROMPTS = [[5 + (i * i + length) % 80 for i in range(length)] for length in LENGTHS]
ASKED = SamplingParams(max_tokens=1, prompt_logprobs=3)


def found(request: GenerateRequest) -> PromptLogprobs:
    assert request.result is not None
    assert request.result.error is None
    assert request.result.prompt_logprobs is not None
    return request.result.prompt_logprobs


def values(found: PromptLogprobs | None) -> list[float]:
    assert found is not None
    assert found.logprobs[0] is None
    return [one for one in found.logprobs if one is not None]


def run(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> list[PromptLogprobs]:
    requests = [engine.new_generate(prompt, params, index=i) for i, prompt in enumerate(prompts)]
    run_checked(engine, requests)
    assert engine.stats()["pages_used"] == 0
    return [found(request) for request in requests]


@pytest.mark.parametrize("options", [WHOLE, CHUNKED], ids=["whole", "chunked"])
@pytest.mark.parametrize("family", ["qwen3moe", "gemma3"])
def test_they_are_those_of_transformers(
    family: str, options: dict[str, Any], checkpoints: dict[str, Path]
) -> None:
    oracle = load_oracle(checkpoints[family])
    params = SamplingParams(n=2, max_tokens=3, prompt_logprobs=3, seed=1)
    with Engine.from_pretrained(checkpoints[family], **options) as engine:
        every = run(engine, PROMPTS, params)
    for prompt, one in zip(PROMPTS, every, strict=True):
        expected = causal_logits(oracle, prompt).log_softmax(-1)[:-1]
        own = expected.gather(1, torch.tensor(prompt[1:], dtype=torch.int64)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(values(one)), own, atol=1e-4, rtol=0)
        assert len(one.logprobs) == len(prompt)
        assert one.top_logprobs is not None
        assert one.top_logprobs[0] is None
        for top, row in zip(one.top_logprobs[1:], expected, strict=True):
            assert top is not None
            got = torch.tensor([logprob for _, logprob in top])
            torch.testing.assert_close(got, row.topk(3).values, atol=1e-4, rtol=0)
            torch.testing.assert_close(row[[token for token, _ in top]], got, atol=1e-4, rtol=0)


def test_none_is_off_and_0_is_the_tokens_alone(qwen2: Path) -> None:
    asked = [SamplingParams(max_tokens=2, prompt_logprobs=count) for count in (None, 0, 2)]
    with Engine.from_pretrained(qwen2) as engine:
        off, alone, two = (one.prompt_logprobs for one in engine.generate(["abc"] * 3, asked))
    assert off is None
    assert alone is not None
    assert two is not None
    assert alone.top_logprobs is None
    assert two.logprobs == alone.logprobs
    assert [top and len(top) for top in two.top_logprobs or []] == [None, 2, 2]


def test_the_prefix_cache_is_written_but_not_read(qwen2: Path) -> None:
    """Neither what was cached whole, nor the short pieces of a conversation that are copied."""
    prompt = PROMPTS[-1]
    plain = SamplingParams(max_tokens=8, seed=1)
    with Engine.from_pretrained(qwen2, prefix_cache=False) as engine:
        expected = run(engine, [prompt], ASKED)
    with Engine.from_pretrained(qwen2) as engine:
        for length in (40, 60, len(prompt)):
            engine.generate([prompt[:length]], plain)
        assert run(engine, [prompt], ASKED) == expected
        (scored,) = engine.generate([prompt], ASKED)
        prefill = scored.usage.phases["candidate_prefill"]
        assert (prefill.tokens_computed, prefill.reused_cache) == (len(prompt), 0)
    with Engine.from_pretrained(qwen2) as engine:
        (scored,) = engine.generate([prompt], ASKED)
        (later,) = engine.generate([prompt], plain)
        assert later.usage.phases["candidate_prefill"].reused_cache == len(prompt) - 1


def test_nobody_reads_a_prompt_that_is_being_scored(qwen2: Path) -> None:
    """A reader of it might compute it, and would not score it."""
    prompt = PROMPTS[-1]
    with Engine.from_pretrained(qwen2, **CHUNKED) as engine:
        requests = [
            engine.new_generate(prompt, params)
            for params in (ASKED, SamplingParams(max_tokens=40), ASKED)
        ]
        run_checked(engine, requests)
    first, plain, last = requests
    assert plain.usage.phases["candidate_prefill"].reused_cache == 0
    assert found(first) == found(last)
    for request in (first, last):
        assert len(found(request).logprobs) == len(prompt)
        assert request.usage.phases["candidate_prefill"].tokens_computed == len(prompt)


@pytest.mark.parametrize("family", ["qwen2", "qwen3moe"])
def test_company_changes_no_bit(family: str, checkpoints: dict[str, Path]) -> None:
    with Engine.from_pretrained(checkpoints[family]) as engine:
        alone = [one for prompt in PROMPTS for one in run(engine, [prompt], ASKED)]
        others = [
            engine.new_generate(prompt, SamplingParams(n=3, max_tokens=20, temperature=t))
            for prompt in PROMPTS[::-1]
            for t in (0.0, 1.0)
        ]
        asked = [engine.new_generate(prompt, ASKED) for prompt in PROMPTS]
        run_checked(engine, [*others[:4], *asked, *others[4:]])
    assert [found(request) for request in asked] == alone


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_steps_ahead_and_drafts(
    lag: int, temperature: float, qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Siblings decode with drafts beside prompts that are scored in chunks."""
    monkeypatch.setattr("gsr_engine.execution.device.measure_step_costs", lambda *_: FREE)
    params = SamplingParams(
        n=2, max_tokens=30, prompt_logprobs=3, temperature=temperature, seed=2, ignore_eos=True
    )
    with Engine.from_pretrained(qwen2, **CHUNKED) as engine:
        requests = [engine.new_generate(prompt, params) for prompt in PROMPTS]
        run_checked(engine, requests)
        expected = [request.result for request in requests]
    drafts = {"method": "ngram", "num_speculative_tokens": 4}
    with paged_engine(qwen2, lag, **CHUNKED, speculative_config=drafts) as engine:
        requests = [engine.new_generate(prompt, params) for prompt in PROMPTS]
        run_checked(engine, requests)
        decoding = engine.stats()["phases"]["candidate_decode"]
        assert decoding["tokens_proposed"]
        assert decoding["tokens_accepted"] or temperature  # a random model seldom repeats itself
    for request, other in zip(requests, expected, strict=True):
        assert other is not None
        assert values(found(request)) == pytest.approx(values(other.prompt_logprobs), abs=1e-5)
        assert request.result is not None
        mine = [one.token_ids for one in request.result.completions]
        assert mine == [one.token_ids for one in other.completions]


@pytest.mark.parametrize("lag", [0, 1])
def test_a_preemption_in_the_middle_repeats_nothing(lag: int, qwen2: Path) -> None:
    """The older request grows and takes the pages of the prompt that is being scored."""
    prompt, older = PROMPTS[-1][:256], SamplingParams(max_tokens=60, ignore_eos=True)
    with Engine.from_pretrained(qwen2) as engine:
        (expected,) = run(engine, [prompt], ASKED)
    page = 2 * 3 * 2 * 12 * 4 * 16 / 2**30
    options = {"max_batch_tokens": 4, "max_num_seqs": 4, "kv_cache_gib": 20.5 * page}
    with paged_engine(qwen2, lag, **options) as engine:
        assert engine.stats()["pages_total"] == 20
        requests = [engine.new_generate([7], older), engine.new_generate(prompt, ASKED)]
        run_checked(engine, requests)
        assert engine.stats()["preemptions"] >= 1
    assert requests[1].usage.phases["candidate_prefill"].tokens_computed > len(prompt)
    assert len(found(requests[1]).logprobs) == len(prompt)
    assert values(found(requests[1])) == pytest.approx(values(expected), abs=1e-5)


def test_new_weights_in_the_middle_repeat_nothing(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2, **CHUNKED) as engine:
        (expected,) = run(engine, PROMPTS[-1:], ASKED)
        request = engine.new_generate(PROMPTS[-1], ASKED)
        engine.submit(request)
        for _ in range(5):
            engine.step()
        engine.reload_weights(qwen2)
        run_checked(engine, [])
    assert found(request) == expected


def test_who_ends_early_has_what_was_computed(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2, **CHUNKED) as engine:
        (expected,) = run(engine, PROMPTS[-1:], ASKED)
        request = engine.new_generate(PROMPTS[-1], ASKED)
        engine.submit(request)
        for _ in range(3):
            engine.step()
        engine.abort(request)
    assert request.result is not None
    part = request.result.prompt_logprobs
    assert part is not None
    assert part.logprobs == expected.logprobs[: 3 * 24 + 1]
    assert part.top_logprobs == (expected.top_logprobs or [])[: 3 * 24 + 1]


def test_logits_exist_for_some_rows_at_a_time(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the prompt is."""
    made: list[int] = []
    logits = Decoder.logits

    def counted(self: Decoder, hidden: torch.Tensor) -> torch.Tensor:
        made.append(len(hidden))
        return logits(self, hidden)

    monkeypatch.setattr(Decoder, "logits", counted)
    with Engine.from_pretrained(qwen2) as engine:
        run(engine, [PROMPTS[-1]], ASKED)
    assert max(made) == SCORED_ROWS
    assert sum(made) == len(PROMPTS[-1])


def test_a_score_is_taken_once() -> None:
    """A step in flight may have scored what is scored again after a preemption."""
    scores = PromptScores(0)
    assert scores.take(1, [(-1.0, None), (-2.0, None)])
    assert scores.take(1, [(-9.0, None), (-9.0, None), (-3.0, None)])
    assert scores.take(2, [(-9.0, None)])
    assert not scores.take(4, [(-4.0, None), (float("nan"), None)])
    assert scores.result() == PromptLogprobs([None, -1.0, -2.0, -3.0], None)


@pytest.mark.parametrize("part", ["candidate", "refine"])
def test_refinements_have_none(part: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"{part}\.prompt_logprobs: must be None"):
        SelfRefineParams(**{part: SamplingParams(prompt_logprobs=0)})  # type: ignore[arg-type]
