"""`first`: the refinement begins once so many candidates have ended by themselves."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from gsr_engine import (
    Engine,
    EngineConfig,
    InvalidRequest,
    RefineResult,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.execution.loading import load_parts

PROBLEMS = [puzzle.problem for puzzle in sample_puzzles("validation", 5, 2)]
# So hot that the candidates differ in length.
HOT = SamplingParams(max_tokens=60, temperature=2.0)
GREEDY = SamplingParams(max_tokens=4, temperature=0.0)
PARAMS = SelfRefineParams(
    k=6, view="full", order="as_generated", candidate=HOT, refine=GREEDY, seed=3
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.from_pretrained(NANO, dtype="float32", prefix_cache=False, threads=1) as engine:
        yield engine
        engine.check()
        assert engine.stats()["pages_used"] == 0


def solved(engine: Engine, **changes: Any) -> list[RefineResult]:
    params = replace(PARAMS, **changes)
    requests = [engine.new_self_refine(p, params, index=i) for i, p in enumerate(PROBLEMS)]
    return engine.run(requests)


def reasons(result: RefineResult) -> list[str]:
    return [one.finish_reason for one in result.candidates]


@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_the_first_ones_are_read_and_the_rest_is_stopped(engine: Engine, layout: str) -> None:
    stopped = 0
    for whole, result in zip(
        solved(engine, layout=layout), solved(engine, layout=layout, first=2), strict=True
    ):
        assert whole.num_stopped == 0
        ended = [len(one.token_ids) for one in whole.candidates]
        last = sorted(ended)[1]  # all run in step, so the shortest end first
        assert result.used == [i for i, length in enumerate(ended) if length <= last]
        assert result.num_stopped == reasons(result).count("abort") == 6 - len(result.used)
        for mine, theirs in zip(result.candidates, whole.candidates, strict=True):
            assert theirs.token_ids[: len(mine.token_ids)] == mine.token_ids
        assert result.refinement
        assert result.error is None
        stopped += result.num_stopped
    assert stopped


def test_as_they_finish(engine: Engine) -> None:
    for result in solved(engine, order="as_finished", first=3):
        lengths = [len(result.candidates[i].token_ids) for i in result.used]
        assert lengths == sorted(lengths)
        assert len(lengths) >= 3
        assert result.num_stopped == 6 - len(lengths)


def test_candidates_that_were_cut_do_not_count_but_are_read(engine: Engine) -> None:
    cut = replace(HOT, max_tokens=5, ignore_eos=True)
    for result in solved(engine, first=1, candidate=cut):
        assert reasons(result) == ["length"] * 6
        assert result.used == [0, 1, 2, 3, 4, 5]
        assert result.num_stopped == 0


def test_a_candidate_with_nothing_to_show_does_not_count(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = solved(engine)
    by_length = sorted(whole.candidates, key=lambda one: one.content_length)
    hidden, shown = by_length[:2]
    assert hidden.content_length < shown.content_length
    summary = engine.prompts.summary
    monkeypatch.setattr(
        engine.prompts,
        "summary",
        lambda ids, *rest: None if ids == hidden.content_ids else summary(ids, *rest),
    )
    result, _ = solved(engine, first=1)
    assert result.candidates[hidden.index].finish_reason == "stop"
    ended = [c.index for c in by_length[1:] if c.content_length == shown.content_length]
    assert result.used == sorted(ended)


def test_the_earlier_of_agreement_and_first_counts(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, each = solved(engine, first=2), count()
    monkeypatch.setattr("gsr_engine.text.prompts.find_answer", lambda *_: str(next(each)))
    apart = solved(engine, first=2, agreement=2)  # no two say the same
    assert [one.used for one in apart] == [one.used for one in first]
    monkeypatch.setattr("gsr_engine.text.prompts.find_answer", lambda text, _: "same")
    early = solved(engine, first=4, agreement=2)
    assert [one.used for one in early] == [one.used for one in first]
    assert [one.num_stopped for one in early] == [one.num_stopped for one in first]


def test_a_timeout_may_come_sooner() -> None:
    now, config = 0.0, EngineConfig(dtype="float32", threads=1)
    engine = Engine(*load_parts(NANO, config), config, clock=lambda: now)
    request = engine.new_self_refine(PROBLEMS[0], replace(PARAMS, first=2, candidate_timeout=50.0))
    engine.submit(request)
    for _ in range(4):
        engine.step()
    now = 100.0
    while engine.has_work:
        engine.step()
    result = request.result
    assert result
    assert reasons(result) == ["abort"] * 6
    assert result.used == [0, 1, 2, 3, 4, 5]  # as far as they got
    assert result.num_stopped == 0


def test_it_is_for_candidates_that_this_engine_writes(engine: Engine) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InvalidRequest, match="first: 1 needs candidates that are generated"):
            engine.self_refine(["1"], replace(PARAMS, k=1, first=1), [["x"]])
        with pytest.raises(InvalidRequest, match="first: is not possible with another engine"):
            engine.self_refine(["1"], replace(PARAMS, first=1), refiner=engine)
