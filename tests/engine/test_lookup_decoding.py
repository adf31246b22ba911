"""With lookup decoding every request gets what it gets without, to the last bit in fp32."""

from __future__ import annotations

import asyncio
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gsr_engine import (
    AsyncEngine,
    Engine,
    GenerateResult,
    InvalidRequest,
    RefineResult,
    RepetitionDetectionParams,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from tests.helpers.drafts import FREE
from tests.helpers.paged import paged_engine
from tests.helpers.readers import read, verify
from tests.helpers.steps import run_checked

PUZZLES = [puzzle.problem for puzzle in sample_puzzles("test", 3, 6)]
NGRAM = {"method": "ngram", "num_speculative_tokens": 8}
PROMPTS = ("ab ab ab ab ab", "the cat sat on the mat. the cat sat on", "x" * 300, "abc")


@pytest.fixture(autouse=True)
def every_draft_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without measured costs: all that can be proposed is verified."""
    monkeypatch.setattr("gsr_engine.execution.device.measure_step_costs", lambda *_: FREE)


def refine(layout: str, k: int = 3, **options: Any) -> SelfRefineParams:
    return SelfRefineParams(k=k, layout=layout, seed=5, **options)  # type: ignore[arg-type]


def accepted(results: list[GenerateResult] | list[RefineResult]) -> int:
    return sum(p.tokens_accepted for r in results for p in r.usage.phases.values())


def same(one: RefineResult, other: RefineResult) -> bool:
    return one.candidates == other.candidates and one.rounds == other.rounds


@pytest.mark.parametrize("layout", ["linear", "branched"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_refinements_are_those_without(layout: str, temperature: float) -> None:
    sampling = SamplingParams(temperature=temperature, top_logprobs=3)
    params = refine(layout, refine=sampling)
    with Engine.from_pretrained(NANO, dtype="float32") as engine:
        plain = engine.self_refine(PUZZLES, params)
    with Engine.from_pretrained(NANO, dtype="float32", speculative_config=NGRAM) as engine:
        requests = [engine.new_self_refine(p, params, index=i) for i, p in enumerate(PUZZLES)]
        run_checked(engine, requests)
        drafted = [request.result for request in requests if request.result]
        ended = [s for r in requests for streams in r.rounds for s in streams]
        counts = engine.stats()["phases"]["refine_decode"]
    assert all(map(same, plain, drafted))
    written = sum(len(r.rounds[0][0].token_ids) for r in drafted)
    assert counts["tokens_accepted"] == accepted(drafted) > written / 2
    assert counts["tokens_accepted"] <= counts["tokens_proposed"]
    assert not any(stream.lookup for stream in ended)  # a caller may keep the request
    # One row for every token but the first, which the prompt draws, and for every wrong one.
    wrong = counts["tokens_proposed"] - counts["tokens_accepted"]
    assert counts["tokens_computed"] == written - len(drafted) + wrong


@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_rounds_and_subsets(layout: str) -> None:
    params = refine(layout, k=4, widths=(3,), subset=2, refinements=2)
    results = []
    for config in (None, NGRAM):
        with Engine.from_pretrained(NANO, dtype="float32", speculative_config=config) as engine:
            results.append(engine.self_refine(PUZZLES[:3], params))
    assert all(map(same, *results))
    assert accepted(results[1]) > 0


sampling = st.fixed_dictionaries(
    {
        "n": st.integers(1, 3),
        "temperature": st.sampled_from([0.0, 0.3, 1.0]),
        "top_k": st.sampled_from([0, 5]),
        "top_p": st.sampled_from([1.0, 0.8]),
        "repetition_penalty": st.sampled_from([1.0, 1.0, 1.02]),
        "presence_penalty": st.sampled_from([0.0, 0.0, 0.1]),
        "frequency_penalty": st.sampled_from([0.0, 0.0, 0.05]),
        "max_tokens": st.integers(1, 60),
        "min_tokens": st.sampled_from([0, 1]),
        "stop": st.sampled_from([(), (), ("b a",), ("at", "t on t"), ("x",)]),
        "stop_token_ids": st.sampled_from([(), (40, 41)]),
        "repetition_detection": st.sampled_from(
            [None, None, RepetitionDetectionParams(max_pattern_size=9, min_count=3)]
        ),
        "top_logprobs": st.sampled_from([0, 2]),
        "seed": st.integers(0, 9),
    }
)


@pytest.fixture(scope="module")
def engines(checkpoints: dict[str, Path], request: Any) -> Any:
    """Without and with lookup decoding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gsr_engine.execution.device.measure_step_costs", lambda *_: FREE)
        plain, drafting = (
            Engine.from_pretrained(
                checkpoints["qwen2"], prefix_cache=False, speculative_config=config
            )
            for config in (None, NGRAM)
        )
    with plain, drafting:
        yield plain, drafting


@given(params=st.lists(sampling, min_size=1, max_size=4), minimum=st.integers(0, 20))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_completions_are_those_without(
    engines: tuple[Engine, Engine], params: list[dict[str, Any]], minimum: int
) -> None:
    """Loops of a model with random weights are what is proposed, and what is cut short."""
    asked = [
        SamplingParams(**{**one, "min_tokens": min(minimum * one["min_tokens"], one["max_tokens"])})
        for one in params
    ]
    plain, drafting = (engine.generate(list(PROMPTS[: len(asked)]), asked) for engine in engines)
    assert [r.completions for r in plain] == [r.completions for r in drafting]


@pytest.mark.parametrize("family", ["olmo3", "qwen3moe", "gemma3"])
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_families(family: str, quantization: str, checkpoints: dict[str, Path]) -> None:
    """Windows, experts and 8 bits: rows of a draft are rows like others."""
    params = SamplingParams(n=2, temperature=0.3, max_tokens=60, seed=1, ignore_eos=True)
    results = []
    for config in (None, NGRAM):
        options: dict[str, Any] = {"quantization": quantization, "speculative_config": config}
        with Engine.from_pretrained(checkpoints[family], dtype="float32", **options) as engine:
            results.append(engine.generate(list(PROMPTS), params))
    plain, drafting = results
    assert [r.completions for r in plain] == [r.completions for r in drafting]
    assert accepted(drafting) > 0


def test_bfloat16_agrees_up_to_near_ties(qwen2: Path) -> None:
    """A product of bf16 may depend on its number of rows; where it turns a tie, texts part."""
    params = SamplingParams(n=2, temperature=0.3, max_tokens=60, seed=1, ignore_eos=True)
    results = []
    for config in (None, NGRAM):
        with Engine.from_pretrained(qwen2, dtype="bfloat16", speculative_config=config) as engine:
            results.append(engine.generate(list(PROMPTS), params))
    agreeing = total = 0
    for one, other in zip(*results, strict=True):
        for mine, theirs in zip(one.completions, other.completions, strict=True):
            pairs = list(zip(mine.token_ids, theirs.token_ids, strict=True))
            same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
            assert mine.logprobs[:same] == pytest.approx(theirs.logprobs[:same], abs=0.1)
            agreeing, total = agreeing + same, total + len(pairs)
    assert agreeing >= 0.9 * total
    print(f"bf16: {agreeing} of {total} tokens agree with and without drafts")


@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_graphs_and_a_step_ahead(layout: str) -> None:
    """As on a GPU: padded shapes, and a next step that is planned before this one is known.

    Short prompts are rows of decode there, which sum in another order.
    """
    params = refine(layout)
    with Engine.from_pretrained(NANO, dtype="float32") as engine:
        plain = engine.self_refine(PUZZLES, params)
    with paged_engine(NANO, dtype="float32", speculative_config=NGRAM) as engine:
        drafted = engine.self_refine(PUZZLES, params)
    for one, other in zip(plain, drafted, strict=True):
        for a, b in zip(chain(*one.rounds), chain(*other.rounds), strict=True):
            assert a.token_ids == b.token_ids
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    assert accepted(drafted) > 0


def test_little_memory_changes_no_token_and_ends_nothing() -> None:
    """Drafts take free pages only; preempted streams go on as they would without."""
    short, greedy = (SamplingParams(max_tokens=100, temperature=t) for t in (None, 0.0))
    params = refine("linear", k=4, candidate=short, refine=greedy)
    with Engine.from_pretrained(NANO, dtype="float32") as engine:
        plain = engine.self_refine(PUZZLES, params)
        page = engine.limits.page_bytes / 2**30
    options = {"speculative_config": NGRAM, "kv_cache_gib": 40.5 * page}
    with Engine.from_pretrained(NANO, dtype="float32", **options) as engine:
        requests = [engine.new_self_refine(p, params, index=i) for i, p in enumerate(PUZZLES)]
        run_checked(engine, requests)
        assert engine.stats()["preemptions"] > 0
    for one, request in zip(plain, requests, strict=True):
        assert request.result
        assert not request.result.error
        assert [c.token_ids for c in request.result.rounds[0]] == [
            c.token_ids for c in one.rounds[0]
        ]


@pytest.mark.parametrize("config", [None, NGRAM])
@pytest.mark.parametrize("drawn", [16, 40, 61])
def test_a_preempted_stream_goes_on_in_other_pages(config: object, drawn: int) -> None:
    """Also if nobody else decodes meanwhile, so that its last step is the last that decoded."""
    prompt, params = [7, 8] * 60, SamplingParams(max_tokens=90, temperature=0.0, ignore_eos=True)
    other, short = [9, 10] * 100, SamplingParams(max_tokens=1)
    options: dict[str, Any] = {"speculative_config": config, "prefix_cache": False}
    with Engine.from_pretrained(NANO, dtype="float32", **options) as engine:
        (plain,) = engine.generate([prompt], params)
        preempted, first = engine.new_generate(prompt, params), engine.new_generate(other, short)
        first.priority = 1
        engine.submit(preempted)
        while not preempted.groups or len(preempted.groups[0].streams[0].segment) < drawn:
            engine.step()
        engine.scheduler.forget_kv()
        run_checked(engine, [first])
    assert preempted.result
    (before,), (after,) = plain.completions, preempted.result.completions
    assert after.token_ids == before.token_ids
    assert after.logprobs == pytest.approx(before.logprobs, abs=1e-4)


def test_a_graph_has_room_for_the_pages_of_a_draft() -> None:
    """Its rows see the same pages: they need no more of the page table than one stream."""
    params = SamplingParams(max_tokens=90, temperature=0.0, ignore_eos=True)
    with Engine.from_pretrained(NANO, dtype="float32") as engine:
        plain = engine.generate([[7, 8] * 20], params)
        page = engine.limits.page_bytes / 2**30
    options = {"max_num_seqs": 1, "kv_cache_gib": 30.5 * page, "speculative_config": NGRAM}
    with paged_engine(NANO, dtype="float32", **options) as engine:
        drafted = engine.generate([[7, 8] * 20], params)
    assert drafted[0].completions == plain[0].completions
    assert accepted(drafted) > 0


def test_first_tokens_are_drawn_beside_drafts() -> None:
    """A step draws no more tokens than it has places for: those of a prompt's siblings, too."""
    params = SamplingParams(n=4, max_tokens=200, temperature=0.0, ignore_eos=True)
    options: dict[str, Any] = {"max_num_seqs": 8, "prefix_cache": False, "cuda_graphs": False}
    with paged_engine(NANO, dtype="float32", speculative_config=NGRAM, **options) as engine:
        for drawn in (74, 77):  # in the midst of long drafts
            early, late = (engine.new_generate([7, 8] * 20, params) for _ in range(2))
            engine.submit(early)
            while not early.groups or len(early.groups[0].streams[0].segment) < drawn:
                engine.step()
            run_checked(engine, [late])
            for request in (early, late):
                assert request.result
                assert not request.result.error
                assert accepted([request.result]) > 0


def test_a_request_that_fills_the_pool_alone() -> None:
    """The last page is for the stream's own tokens; a draft is cut to what is there."""
    prompt, params = [7, 8] * 20, SamplingParams(max_tokens=88, temperature=0.0, ignore_eos=True)
    with Engine.from_pretrained(NANO, dtype="float32") as engine:
        plain = engine.generate([prompt], params)
        page = engine.limits.page_bytes / 2**30
    options = {"speculative_config": {"num_speculative_tokens": 30}, "kv_cache_gib": 9.5 * page}
    with Engine.from_pretrained(NANO, dtype="float32", **options) as engine:
        request = engine.new_generate(prompt, params)
        run_checked(engine, [request])
    assert request.result
    assert request.result.completions == plain[0].completions


def test_a_reader_gets_every_token_once() -> None:
    """A step may add several tokens to a stream; the events say the same as the result."""

    async def main() -> RefineResult:
        options = {"dtype": "float32", "speculative_config": NGRAM}
        async with AsyncEngine.from_pretrained(NANO, **options) as engine:
            return verify(await read(engine.self_refine(PUZZLES[0], refine("branched"))))

    assert accepted([asyncio.run(main())]) > 0


def test_weights_that_change_meanwhile() -> None:
    """A reload recomputes all KV; what was accepted stays."""
    params = refine("branched", refine=SamplingParams(temperature=0.0, max_tokens=200))
    with Engine.from_pretrained(NANO, dtype="float32", speculative_config=NGRAM) as engine:
        (plain,) = engine.self_refine(PUZZLES[:1], params)
        request = engine.new_self_refine(PUZZLES[0], params)
        engine.submit(request)
        while len(request.rounds) < 2 or len(request.rounds[1][0].segment) < 12:
            engine.step()
        engine.reload_weights(NANO)
        while engine.has_work:
            engine.step()
            engine.check()
    assert request.result
    assert request.result.text == plain.text


@pytest.mark.parametrize(
    ("value", "field", "words"),
    [
        ({"method": "eagle"}, "speculative_config.method", "ngram"),
        ({"num_speculative_tokens": 0}, "speculative_config.num_speculative_tokens", "1 to 64"),
        ({"num_speculative_tokens": True}, "speculative_config.num_speculative_tokens", "True"),
        ({"model": "x"}, "speculative_config", "'model' is none of method"),
        ("ngram", "speculative_config", "dictionary"),
    ],
)
def test_bad_settings_are_named(value: object, field: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as error:
        Engine.from_pretrained(NANO, speculative_config=value)
    assert error.value.field == field
