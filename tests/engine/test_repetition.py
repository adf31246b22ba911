"""Loops at the end of a stream are seen at their first token, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsr_engine import InvalidRequest, RepetitionDetectionParams, SamplingParams
from gsr_engine.kv.segments import Segment
from gsr_engine.repetition import RepetitionMatcher
from gsr_engine.requests.request import Group
from tests.helpers.jobs import CANDIDATE, STOP, Job

prove = settings(deadline=None, derandomize=True, max_examples=200)


@st.composite
def detections(draw: st.DrawFn) -> RepetitionDetectionParams:
    most = draw(st.integers(1, 6))
    return RepetitionDetectionParams(
        max_pattern_size=most,
        min_pattern_size=draw(st.integers(0, most)),
        min_count=draw(st.integers(2, 4)),
    )


def loops(token_ids: list[int], params: RepetitionDetectionParams) -> bool:
    """The definition: the end is some pattern, `min_count` times."""
    sizes = range(max(1, params.min_pattern_size), params.max_pattern_size + 1)
    return any(
        token_ids[-size * params.min_count :] == token_ids[-size:] * params.min_count
        for size in sizes
        if size * params.min_count <= len(token_ids)
    )


@given(
    params=detections(),
    token_ids=st.integers(1, 3).flatmap(lambda most: st.lists(st.integers(0, most), max_size=60)),
)
@prove
def test_the_matcher_is_the_definition(
    params: RepetitionDetectionParams, token_ids: list[int]
) -> None:
    matcher = RepetitionMatcher(params)
    seen = [matcher.push(token) for token in token_ids]
    assert seen == [loops(token_ids[: i + 1], params) for i in range(len(token_ids))]


def test_a_loop_shorter_than_the_least_pattern_is_seen_by_its_turns() -> None:
    params = RepetitionDetectionParams(max_pattern_size=20, min_pattern_size=16, min_count=4)
    for size in (1, 2, 3, 5, 16, 17):
        matcher = RepetitionMatcher(params)
        seen = [matcher.push(i % size) for i in range(100)]
        turns = -(-16 // size) * size  # the fewest turns that are a pattern
        assert seen.index(True) == 4 * turns - 1


def stream(token_ids: list[int], **params: Any) -> tuple[str | None, int]:
    """How a stream that draws these tokens ends, and after how many."""
    sampling = SamplingParams(**{"max_tokens": 100, **params})
    group = Group(Job(), Segment([5]), CANDIDATE)
    loops = sampling.repetition_detection
    stop = type(STOP)(STOP.token_ids, STOP.strings, STOP.tokenizer, loops)
    group.fork(sampling, [0], stop)
    (one,) = group.streams
    for token in token_ids:
        if not one.finished:
            one.append(token, -1.0)
    assert one.content_length == len(one.segment) - (one.finish_reason == "stop")
    return one.finish_reason, len(one.segment)


def test_a_stream_ends_in_a_loop_and_every_other_end_goes_first() -> None:
    twice: Any = {
        "repetition_detection": RepetitionDetectionParams(max_pattern_size=2, min_count=2)
    }
    token_ids = [1, 2, 3, 4, 3, 4, 4, 4]
    assert stream(token_ids, **twice) == ("repetition", 6)
    assert stream(token_ids) == (None, 8)
    assert stream(token_ids, repetition_detection=RepetitionDetectionParams()) == (None, 8)
    assert stream(token_ids, max_tokens=6, **twice) == ("length", 6)
    # Until then a loop counts as little as an end token; one that goes on counts afterwards.
    assert stream(token_ids, min_tokens=7, **twice) == ("repetition", 7)
    assert stream([7, 0, 0], **twice) == ("stop", 2)  # 0 is the end token


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_pattern_size": -1}, "max_pattern_size: must be an integer from 0 to 1024, got -1"),
        ({"max_pattern_size": 5}, "min_count: must be at least 2, got 0"),
        ({"max_pattern_size": 5, "min_count": 1}, "min_count: must be at least 2, got 1"),
        ({"min_pattern_size": 3}, "min_pattern_size: 3 is above max_pattern_size 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(values: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RepetitionDetectionParams(**values)
    assert str(caught.value).startswith(message)


def test_a_dict_is_no_detection() -> None:
    with pytest.raises(InvalidRequest, match="repetition_detection: must be RepetitionDet"):
        SamplingParams(repetition_detection={"max_pattern_size": 3})  # type: ignore[arg-type]
