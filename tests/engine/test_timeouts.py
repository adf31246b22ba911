"""`timeout` ends a request with what there is, wherever it is in its life; time is a step here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gsr_engine import Engine, EngineConfig, InvalidRequest, SamplingParams, SelfRefineParams
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.execution.loading import load_parts
from gsr_engine.outputs import TIMED_OUT

pytestmark = pytest.mark.slow

PROBLEM = sample_puzzles("validation", 5, 6)[0].problem
PARAMS = SelfRefineParams(
    k=3,
    candidate=SamplingParams(max_tokens=200),
    refine=SamplingParams(max_tokens=200, temperature=0.0),
    seed=3,
)
DRAWN = SamplingParams(n=3, max_tokens=200, temperature=1.0, seed=1)


class Stepped(Engine):
    """An engine whose clock counts its steps."""

    num_steps = 0

    def step(self) -> list[Any]:
        finished = super().step()
        self.num_steps += 1
        return finished


@pytest.fixture(scope="module")
def engine() -> Iterator[Stepped]:
    config = EngineConfig(dtype="float32", threads=1, prefix_cache=False)
    engine = Stepped(*load_parts(NANO, config), config, clock=lambda: float(engine.num_steps))
    with engine:
        yield engine


@pytest.fixture(autouse=True)
def _everything_is_free(engine: Stepped) -> Iterator[None]:
    yield
    engine.check()
    assert engine.stats()["pages_used"] == 0


def steps_of(engine: Stepped, run: Any) -> tuple[Any, int]:
    """The only result of a call, and how many steps it took."""
    before = engine.num_steps
    (result,) = run()
    return result, engine.num_steps - before


def test_completions_end_with_the_tokens_so_far(engine: Stepped) -> None:
    whole, steps = steps_of(engine, lambda: engine.generate(PROBLEM, DRAWN))
    lengths = [len(one.token_ids) for one in whole.completions]
    assert len(set(lengths)) > 1, "some end before the others"
    for timeout in range(1, steps, 4):
        (result,) = engine.generate(PROBLEM, replace(DRAWN, timeout=timeout))
        assert result.error is None
        assert result.usage.completion_tokens == sum(min(one, timeout) for one in lengths)
        for mine, complete in zip(result.completions, whole.completions, strict=True):
            ended = len(complete.token_ids) <= timeout
            assert mine.finish_reason == (complete.finish_reason if ended else "timeout")
            assert mine.token_ids == complete.token_ids[:timeout]
            assert complete.text.startswith(mine.text)
    (late,) = engine.generate(PROBLEM, replace(DRAWN, timeout=steps))
    assert late.completions == whole.completions


def test_without_a_token_it_is_an_error(engine: Stepped) -> None:
    (result,) = engine.generate(PROBLEM, replace(DRAWN, timeout=0))
    assert (result.error, result.completions) == (TIMED_OUT, [])
    chunks = EngineConfig(dtype="float32", threads=1, max_batch_tokens=8, max_num_seqs=8)
    now = 0.0
    with Engine(*load_parts(NANO, chunks), chunks, clock=lambda: now) as other:
        request = other.new_generate([7] * 20, replace(DRAWN, timeout=5))
        other.submit(request)
        other.step()
        now = 5.0
        assert other.step() == [request]
        other.check()
    assert request.result
    assert request.result.error == TIMED_OUT
    assert [one.finish_reason for one in request.result.completions] == ["timeout"] * 3
    assert request.result.usage.peak_pages >= 2, "the pages that it held are counted"


@pytest.mark.parametrize(
    "changes", [{}, {"order": "as_finished"}, {"layout": "branched"}, {"refinements": 2}]
)
def test_a_refinement_ends_with_the_tokens_so_far(engine: Stepped, changes: Any) -> None:
    params = replace(PARAMS, **changes)
    whole, steps = steps_of(engine, lambda: engine.self_refine(PROBLEM, params))
    seen = []
    for timeout in range(0, steps, 5):
        (result,) = engine.self_refine(PROBLEM, replace(params, timeout=timeout))
        written = result.refinement.token_ids if result.refinement else []
        seen.append(len(written))
        reasons = {one.finish_reason for one in result.candidates}
        if not written:
            assert result.error == f"{TIMED_OUT} of the refinement"
            assert (result.text, result.answer) == ("", None)
            continue
        assert result.error is None
        assert reasons <= {"stop", "length"}
        assert result.candidates == whole.candidates
        assert [one.finish_reason for one in result.rounds[-1] if one.finish_reason != "stop"]
        assert any(written == one.token_ids[: len(written)] for one in whole.rounds[-1])
    assert seen[0] == 0
    assert seen[-1] > 5
    assert seen == sorted(seen)


def test_what_the_candidates_had_is_in_the_result(engine: Stepped) -> None:
    (result,) = engine.self_refine(PROBLEM, replace(PARAMS, timeout=7))
    assert result.error == f"{TIMED_OUT} of the refinement"
    assert [one.finish_reason for one in result.candidates] == ["timeout"] * 3
    assert [len(one.token_ids) for one in result.candidates] == [7] * 3
    assert result.usage.completion_tokens == 21
    assert result.usage.peak_pages > 0
    assert result.refinement is None


def test_both_timeouts_take_effect(engine: Stepped) -> None:
    (result,) = engine.self_refine(PROBLEM, replace(PARAMS, candidate_timeout=6, timeout=15))
    assert result.error is None
    assert [one.finish_reason for one in result.candidates] == ["abort"] * 3
    assert [len(one.token_ids) for one in result.candidates] == [6] * 3
    assert sorted(result.used) == [0, 1, 2]
    assert result.refinement.finish_reason == "timeout"
    assert len(result.refinement.token_ids) == 9
    (same,) = engine.self_refine(PROBLEM, replace(PARAMS, candidate_timeout=6, timeout=6))
    assert same.error == f"{TIMED_OUT} of the refinement"
    assert {one.finish_reason for one in same.candidates} == {"timeout"}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_round_before_the_last_is_no_answer(engine: Stepped) -> None:
    params = replace(PARAMS, widths=(2,))
    whole, _ = steps_of(engine, lambda: engine.self_refine(PROBLEM, params))
    longest = max(len(one.token_ids) for one in whole.candidates)
    (result,) = engine.self_refine(PROBLEM, replace(params, timeout=longest + 3))
    assert result.error == f"{TIMED_OUT} of the refinement"
    assert [one.finish_reason for one in result.rounds[0]] == ["timeout"] * 2
    assert all(one.token_ids for one in result.rounds[0])


def test_given_candidates_are_refined_until_then(engine: Stepped) -> None:
    params = replace(PARAMS, timeout=6)
    (result,) = engine.self_refine(PROBLEM, params, ["2", "4"])
    assert [one.finish_reason for one in result.candidates] == ["given"] * 2
    assert result.refinement.finish_reason == "timeout"
    assert result.error is None


def test_others_go_on(engine: Stepped) -> None:
    alone = engine.self_refine(PROBLEM, PARAMS)[0]
    both = engine.self_refine([PROBLEM] * 2, [replace(PARAMS, timeout=9), replace(PARAMS, seed=4)])
    assert both[0].error
    assert both[1].error is None
    assert alone.candidates == engine.self_refine(PROBLEM, PARAMS)[0].candidates


def test_it_counts_from_the_submission(engine: Stepped) -> None:
    request = engine.new_generate(PROBLEM, replace(DRAWN, timeout=3))
    engine.num_steps += 100
    (result,) = engine.run([request])
    assert [len(one.token_ids) for one in result.completions] == [3] * 3


@pytest.mark.parametrize("name", ["candidate", "refine"])
def test_streams_have_no_timeout_of_their_own(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{name}.timeout: must be None"):
        SelfRefineParams(**{name: SamplingParams(timeout=3)})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["timeout", "candidate_timeout"])
def test_a_timeout_is_seconds(engine: Stepped, name: str) -> None:
    for bad in (-1, 1e10, float("nan"), "3", True):
        with pytest.raises(InvalidRequest, match=f"{name}: must be a number from 0 to"):
            SelfRefineParams(**{name: bad})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=f"{name}: is not possible with another engine"):
        engine.self_refine(PROBLEM, replace(PARAMS, **{name: 3.0}), refiner=engine)
