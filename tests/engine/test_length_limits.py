"""How long streams may be: the context decides, the pool refuses, and nothing is cut in silence."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import Any

import pytest

from gsr_engine import Engine, InvalidRequest, SamplingParams, SelfRefineParams
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from tests.chaos.nano_world import PAGE_GIB

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PROBLEM = sample_puzzles("validation", 5, 1)[0].problem
LENGTH = 128


def nano(pages: int | None = None, length: int = LENGTH) -> Engine:
    """nano in fp32 with a short context and so many pages."""
    gib = None if pages is None else (pages + 0.5) * PAGE_GIB
    return Engine.from_pretrained(
        NANO, dtype="float32", kv_cache_gib=gib, max_model_len=length, prefix_cache=False
    )


def params(most: int | None, **changes: Any) -> SelfRefineParams:
    one = SamplingParams(max_tokens=most)
    both = {"candidate": one, "refine": replace(one, temperature=0.0)}
    return SelfRefineParams(**{"seed": 3, "force_layout": True, **both, **changes})


def test_an_open_length_is_that_of_the_context_in_any_pool_and_company() -> None:
    open_end = SamplingParams(seed=5, ignore_eos=True)
    seen = []
    for pages, n in ((None, 1), (10, 1), (10, 6)):
        with nano(pages) as engine:
            (result,) = engine.generate(PROBLEM, replace(open_end, n=n))
            assert {one.finish_reason for one in result.completions} == {"length"}
            prompt = len(result.prompt_token_ids)
            assert {len(one.token_ids) for one in result.completions} == {LENGTH - prompt}
            seen.append(result.completions[0].token_ids)
    assert seen[0] == seen[1] == seen[2]


def test_open_candidates_and_refinements_fill_the_context() -> None:
    one = SamplingParams(ignore_eos=True)
    wanted = SelfRefineParams(candidate=one, refine=one, seed=3, summary_tokens=5)
    candidates = []
    for pages, k in ((None, 2), (20, 2), (20, 4)):
        with nano(pages) as engine:
            (result,) = engine.self_refine(PROBLEM, replace(wanted, k=k))
            direct = result.usage.prompt_tokens
            assert {len(c.token_ids) for c in result.candidates} == {LENGTH - direct}
            assert result.refinement
            assert result.refinement.finish_reason == "length"
            prompt = result.usage.phases["refine_prefill"]
            read = prompt.tokens_computed + prompt.reused_prompt
            assert len(result.refinement.token_ids) == LENGTH - read
            candidates.append([c.token_ids for c in result.candidates[:2]])
    assert candidates[0] == candidates[1] == candidates[2]


@pytest.mark.parametrize("layout", ["linear", "branched"])
@pytest.mark.parametrize("k", [1, 4, 9])
@pytest.mark.parametrize("pages", [30, 61])
@pytest.mark.parametrize("changes", [{}, {"order": "as_finished"}, {"widths": (3,), "subset": 2}])
def test_a_refusal_names_the_largest_max_tokens_to_the_token(
    layout: str, k: int, pages: int, changes: dict[str, Any]
) -> None:
    if layout == "branched" and "order" in changes:
        return
    with nano(pages, length=1024) as engine:
        for asked in (None, 1000):
            with pytest.raises(InvalidRequest, match="KV pages") as caught:
                engine.new_self_refine(PROBLEM, params(asked, k=k, layout=layout, **changes))
            found = re.search(r"the largest max_tokens that fits is (\d+)", str(caught.value))
            if found is None:
                assert "not even max_tokens=1 fits" in str(caught.value)
                fitting = 0
            else:
                fitting = int(found[1])
                engine.new_self_refine(PROBLEM, params(fitting, k=k, layout=layout, **changes))
            with pytest.raises(InvalidRequest, match="KV pages"):
                engine.new_self_refine(PROBLEM, params(fitting + 1, k=k, layout=layout, **changes))


@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_what_is_named_runs(layout: str) -> None:
    with nano(48, length=1024) as engine:
        with pytest.raises(InvalidRequest) as caught:
            engine.self_refine(PROBLEM, params(None, layout=layout))
        found = re.search(r"fits is (\d+)", str(caught.value))
        assert found
        one = SamplingParams(max_tokens=int(found[1]), ignore_eos=True)
        forced = params(None, layout=layout, candidate=one, refine=one)
        (result,) = engine.self_refine(PROBLEM, forced)
        assert result.refinement
        assert result.error is None
        assert engine.stats()["pages_peak"] <= 48
        engine.check()


def test_rounds_of_short_solutions_need_no_room_for_long_summaries() -> None:
    """`summary_tokens` is 1000 by default, but no solution here has more than 24 tokens."""
    with nano(60, length=1024) as engine:
        rounds = params(24, layout="branched", k=3, widths=(2,), subset=2)
        (result,) = engine.self_refine(PROBLEM, rounds)
        assert result.error is None
        assert [len(streams) for streams in result.rounds] == [2, 1]
        engine.check()


def test_given_candidates_are_not_shortened_to_fit() -> None:
    with nano(30, length=1024) as engine:
        given = [[[7] * 90, [8] * 60]]
        with pytest.raises(InvalidRequest, match="KV pages") as caught:
            engine.self_refine(PROBLEM, params(600), candidates=given)
        found = re.search(r"fits is (\d+)", str(caught.value))
        assert found
        fitting = params(int(found[1]))
        assert engine.self_refine(PROBLEM, fitting, candidates=given)[0].refinement


def test_min_tokens_are_held_against_the_room_not_against_a_limit_nobody_gave() -> None:
    with nano() as engine:
        prompt = len(engine.direct_prompt(PROBLEM))
        with pytest.raises(InvalidRequest, match="min_tokens: 127 is more than the") as caught:
            engine.self_refine(PROBLEM, params(None, candidate=SamplingParams(min_tokens=127)))
        assert f"the {LENGTH - prompt} tokens that a context of 128 leaves" in str(caught.value)
        with pytest.raises(InvalidRequest, match="min_tokens: 127 is more than"):
            engine.self_refine(PROBLEM, params(None, refine=SamplingParams(min_tokens=127)))


def test_a_limit_above_the_context_is_told_once() -> None:
    with nano() as engine, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for above in range(3):  # also if every client has a number of its own
            engine.new_generate(PROBLEM, SamplingParams(max_tokens=100_000 + above, seed=1))
    assert [str(one.message) for one in told] == [
        "max_tokens is above the context of 128: a stream ends where the context ends, with "
        "finish_reason 'length'"
    ]


@pytest.mark.parametrize("layout", ["linear", "branched"])
@pytest.mark.parametrize("k", [2, 16])
def test_the_result_tells_of_shorter_summaries(layout: str, k: int) -> None:
    fewer = layout == "linear" and k == 16  # branched reads the candidates where they are
    with nano(length=512) as engine:
        long = SamplingParams(max_tokens=60, min_tokens=60)
        for candidate in (long, SamplingParams(max_tokens=10)):
            wanted = params(60, k=k, layout=layout, summary_tokens=50, candidate=candidate)
            (result,) = engine.self_refine(PROBLEM, wanted)
            assert (result.summary_tokens < 50) is fewer
            assert result.summary_tokens > 0
            cut = fewer and candidate is long
            assert result.num_shortened == (k if cut else 0)
