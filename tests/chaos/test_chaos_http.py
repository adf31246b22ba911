"""A short form of `make chaos-http`: the server among clients who leave, lie and are unlucky."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterable

import pytest

from gsr_engine import SamplingParams
from tests.chaos.http.faults import break_everything, growth
from tests.chaos.http.judge import judge
from tests.chaos.http.questions import plain
from tests.chaos.http.sigterm import end_under_load
from tests.chaos.http.wire import Answer, Lost, parsed

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.slow
def test_every_client_is_answered_once_and_nothing_is_left_of_those_who_left() -> None:
    report = break_everything(seed=1, clients=30, seconds=5)
    tally = report.tally
    assert tally.answers[200] > 10
    assert tally.left > 5
    assert report.compared


@pytest.mark.slow
def test_sigterm_under_load_costs_nobody_an_answer() -> None:
    tally = end_under_load(seed=1, clients=10, seconds=2, delay=2)
    assert tally.answers[200]


def served(body: bytes, status: int = 200, kind: str = "application/json") -> bytes:
    """A response on the wire."""
    head = f"HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_half_an_answer_none_and_two_are_told_from_one() -> None:
    whole = served(b"{}")
    assert parsed(whole) == Answer(
        200, {"content-type": "application/json", "content-length": "2"}, b"{}"
    )
    for half in (b"", whole[:20], whole[:-1]):
        with pytest.raises(Lost):
            parsed(half)
    with pytest.raises(AssertionError, match="more than one answer"):
        parsed(whole + whole)


QUESTION = dataclasses.replace(
    plain([7], SamplingParams(n=2, max_tokens=4), random.Random(0)), statuses=frozenset({200, 400})
)


def streamed(*chunks: object, end: str = "data: [DONE]\n\n") -> Answer:
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return Answer(200, {"content-type": "text/event-stream"}, (text + end).encode())


def chunk(index: int, tokens: Iterable[int] = (), ends: str | None = None) -> dict[str, object]:
    choice = {"index": index, "token_ids": list(tokens), "finish_reason": ends, "stop_reason": None}
    return {"id": "a", "choices": [choice]}


def test_a_stream_is_judged_to_its_end() -> None:
    good = [chunk(0, [1]), chunk(1, [2]), chunk(0, [3]), chunk(0, ends="stop")]
    last = chunk(1, ends="length")
    assert judge(QUESTION, streamed(*good, last)) == [[1, 3], [2]]
    for bad, said in (
        (streamed(*good), "not finished"),
        (streamed(*good, last, last), "after its end"),
        (streamed(*good, last, end=""), ""),
        (streamed(*good, last, end="data: [DONE]\n\ndata: [DONE]\n\n"), ""),
        (streamed(*good, chunk(2, ends="stop")), ""),
        (streamed(*good, chunk(1, ends="abort")), ""),
        (streamed(*good, {"error": {"message": "", "type": "", "param": None, "code": "x"}}), ""),
    ):
        with pytest.raises(AssertionError, match=said):
            judge(QUESTION, bad)


def test_a_failure_must_be_one_that_another_replica_or_other_luck_mends() -> None:
    def answer(status: int, code: str, **headers: str) -> Answer:
        error = {"message": "", "type": "", "param": None, "code": code}
        body = json.dumps({"error": error}).encode()
        return Answer(status, {"content-type": "application/json", **headers}, body)

    retry = {"retry-after": "1"}
    assert judge(QUESTION, answer(503, "queue_full", **retry)) is None
    assert judge(QUESTION, answer(400, "generation_failed")) is None
    for bad in (answer(503, "queue_full"), answer(500, "x"), answer(400, "x"), answer(404, "x")):
        with pytest.raises(AssertionError):
            judge(QUESTION, bad)


def test_only_a_leak_is_gross_growth() -> None:
    assert growth([(0, 100.0)] * 3) is None
    flat = growth([(count * 100, 300.0) for count in range(20)])
    assert flat is not None
    assert abs(flat) < 1e-6
    with pytest.raises(AssertionError, match="KiB per 1,000 requests"):
        growth([(count * 1000, 300.0 + 20.0 * count) for count in range(20)])
