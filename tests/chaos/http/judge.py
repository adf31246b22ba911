"""Is an answer one that its question may get: whole, once, and with the right status."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from tests.chaos.http.questions import Question
from tests.chaos.http.wire import Answer

_UNLUCKY = {"generation_failed", "deadline_exceeded"}
_ELSEWHERE = {
    *("queue_full", "aborted", "engine_failed", "shutting_down", "engine_closed", "unavailable"),
}
Tokens = list[list[int]]
"""The tokens of each choice."""


def judge(question: Question, answer: Answer) -> Tokens | None:
    """The tokens of an answer that is whole, if it has their ids; None for any other.

    Raises:
        AssertionError: it is none that the question may get.
    """
    assert answer.status in {503, *question.statuses}, f"{answer.status}: {answer.body[:500]!r}"
    if answer.status == 503:
        assert "retry-after" in answer.headers
    if answer.headers["content-type"].startswith("text/event-stream"):
        assert answer.status == 200
        return _judge_stream(question, answer.body)
    body = json.loads(answer.body)
    if answer.status != 200:
        _judge_error(question, body)
        return None
    choices = body["choices"]
    assert [one["index"] for one in choices] == list(range(question.choices))
    assert {one["finish_reason"] for one in choices} <= {"stop", "length"}
    return _judge_tokens([one.get("token_ids") for one in choices], choices, body["usage"])


def _judge_error(question: Question, body: dict[str, Any]) -> None:
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    if question.choices:  # a good question is refused only for a reason that is none of its own
        too_large = error["param"] in ("max_tokens", "gsr.candidate.max_tokens", "max_completion")
        assert too_large or error["code"] in _UNLUCKY | _ELSEWHERE, body


def _judge_stream(question: Question, body: bytes) -> Tokens | None:
    frames = body.decode().split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""], body[-500:]
    chunks = []
    for frame in frames[:-2]:
        if frame != ": keep-alive":
            assert frame.startswith("data: {"), frame
            assert "\n" not in frame
            chunks.append(json.loads(frame.removeprefix("data: ")))
    assert chunks
    if "error" in chunks[-1]:
        _judge_error(question, chunks[-1])
        chunks.pop()
        _judge_chunks(question, chunks)
        return None
    tokens, ends, usage = _judge_chunks(question, chunks)
    assert set(ends) == set(range(question.choices)), "a choice was not finished"
    ordered = [tokens.get(index) for index in range(question.choices)]
    return _judge_tokens(ordered, [ends[index] for index in range(question.choices)], usage)


def _judge_chunks(
    question: Question, chunks: list[dict[str, Any]]
) -> tuple[dict[int, list[int]], dict[int, Any], Any]:
    """The tokens and the end of each choice, and the usage."""
    tokens: dict[int, list[int]] = defaultdict(list)
    ends: dict[int, Any] = {}
    usage = None
    assert len({chunk["id"] for chunk in chunks}) <= 1
    for number, chunk in enumerate(chunks):
        assert "error" not in chunk, "an error in the middle"
        usage = chunk.get("usage")
        assert chunk["choices"] or number == len(chunks) - 1, "usage in the middle"
        for choice in chunk["choices"]:
            index = choice["index"]
            assert 0 <= index < question.choices
            assert index not in ends, "a choice goes on after its end"
            tokens[index] += choice.get("token_ids") or []
            if choice["finish_reason"] is not None:
                assert choice["finish_reason"] in ("stop", "length")
                ends[index] = choice
    return tokens, ends, usage


def _judge_tokens(tokens: list[Any], ends: list[Any], usage: Any) -> Tokens | None:
    """The tokens of a plain answer that nothing cut short."""
    if any(one is None for one in tokens):
        return None
    if usage is not None and any(tokens):
        assert usage["completion_tokens"] == sum(map(len, tokens))
    return None if any(end["stop_reason"] in ("timeout", "abort") for end in ends) else tokens
