"""What the commands print: the model's text as it is, every cut, every answer, and why none."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from gsr_engine import (
    Completion,
    GenerateResult,
    RefineResult,
    SamplingParams,
    SelfRefineParams,
    Usage,
)
from gsr_engine.cli import results
from gsr_engine.programs.template import TEMPLATES
from gsr_engine.text.answers import find_answer

RAW = "3:100:7 :one: [b]x[/b]\n\ttab \x07\x1b[31m red\r\n" + "x = " + " + ".join("abcdefgh" * 9)


SEVEN = SamplingParams(max_tokens=7)
PARAMS = SelfRefineParams(candidate=SEVEN, refine=SEVEN)


def stream(text: str, reason: Any = "stop", index: int = 0) -> Completion:
    return Completion(index, text, [5] * 7, [0.0] * 7, reason, 7)


def refined(*candidates: Completion, refinement: Completion | None, **changes: Any) -> RefineResult:
    text = refinement.text if refinement else ""
    usage = Usage(completion_tokens=7)
    result = RefineResult(
        text, find_answer(text, None), refinement, list(candidates), [0], [], usage, PARAMS
    )
    return replace(result, **changes)


@pytest.fixture
def engine() -> Any:
    prompts = SimpleNamespace(
        gsr=SimpleNamespace(template=TEMPLATES["gsr"]),
        text_and_answer=lambda one: (one.text, find_answer(one.text, None)),
    )
    prompts.templated = lambda _: prompts
    return SimpleNamespace(
        prompts=prompts,
        solution_text=lambda one: one.text,
        gsr=SimpleNamespace(answer_pattern=None),
    )


@contextmanager
def piped() -> Iterator[io.BytesIO]:
    """What reaches a pipe, in bytes."""
    raw = io.BytesIO()
    pipe = io.TextIOWrapper(raw, encoding="utf-8", newline="\n", write_through=True)
    with patch.object(sys, "stdout", pipe):
        yield raw
    pipe.detach()


def test_the_models_text_is_printed_byte_for_byte(engine: Any) -> None:
    with piped() as out:
        results.print_generated(GenerateResult([1], [stream(RAW)], Usage(), SEVEN))
    assert out.getvalue() == RAW.encode() + b"\n"
    solved = refined(stream(RAW), refinement=stream(RAW + r"\boxed{1:100:2}"))
    with piped() as out:
        results.Solved(engine, solved).print()
    printed = out.getvalue().decode()
    assert printed.count(RAW) == 2
    assert printed.endswith("answer: 1:100:2\n")


def test_rounds_are_told(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`used` are indices of the round before, so that round must be there."""
    right, wrong = stream(r"\boxed{4}"), stream(r"\boxed{5}")
    rounds = [[right, wrong, right], [right]]
    solved = results.Solved(engine, refined(wrong, refinement=right, rounds=rounds))
    solved.print()
    assert "── round 1, 3 solutions: majority 4 (2 of 3)\n── refined" in capsys.readouterr().out
    told = json.loads(solved.as_json(1.0, {}))["rounds"]
    assert [[one["answer"] for one in every] for every in told] == [["4", "5", "4"], ["4"]]


def test_answers_of_all_and_the_majority(engine: Any) -> None:
    texts = (r"\boxed{4}", r"\boxed{5}", "no idea", r"so \boxed{5}")
    candidates = [stream(text, index=index) for index, text in enumerate(texts)]
    candidates[1] = replace(candidates[1], finish_reason="length")
    result = refined(*candidates, refinement=stream(r"\boxed{6}", "length"))
    with piped() as out:
        results.Solved(engine, result).print()
    lines = out.getvalue().decode().splitlines()
    assert [line for line in lines if line.startswith(("──", "majority", "answer"))] == [
        "── candidate 1 (stop, 7 tokens, answer 4)",
        "── candidate 2 (length: cut at 7 tokens, answer 5)",
        "── candidate 3 (stop, 7 tokens, no answer)",
        "── candidate 4 (stop, 7 tokens, answer 5)",
        "── refined (length: cut at 7 tokens)",
        "majority: 5 (2 of 4)",
        "answer: 6",
    ]
    told = json.loads(results.Solved(engine, result).as_json(2.0, {}))
    assert [one["answer"] for one in told["candidates"]] == ["4", "5", None, "5"]
    assert told["refinement"]["finish_reason"] == "length"
    assert (told["majority"], told["answer"], told["no_answer"]) == ("5", "6", None)
    assert told["tokens_per_second"] == 3.5


def test_a_single_stream_that_was_cut_is_told_apart_from_its_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results.print_generated(GenerateResult([1], [stream("a", "length")], Usage(), SEVEN))
    captured = capsys.readouterr()
    assert captured.out == "a\n"
    assert captured.err == "note: length: cut at 7 tokens\n"
    results.print_generated(
        GenerateResult([1], [stream("a"), stream("b", "length", 1)], Usage(), SEVEN)
    )
    captured = capsys.readouterr()
    assert captured.out == "── 1 (stop, 7 tokens)\na\n── 2 (length: cut at 7 tokens)\nb\n"


def test_a_failed_request_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    results.print_generated(GenerateResult([1], [], Usage(), SEVEN, "logits are not finite"))
    assert capsys.readouterr().err == "note: logits are not finite\n"


@pytest.mark.parametrize(
    ("refinement", "changes", "reason"),
    [
        (None, {"error": "too few"}, "too few; 1 were cut: raise --max-tokens"),
        (None, {}, "the refinement never began"),
        (stream("4", "length"), {}, "the refinement was cut at 7 tokens: raise --max-tokens"),
        (stream("4 4", "repetition"), {}, "the refinement ran in a loop, cut at 7 tokens"),
        (stream("4 4", "timeout"), {}, "the timeout cut the refinement at 7 tokens"),
        (stream("<think>"), {"text": ""}, "the refinement has no text after its thinking"),
        (stream("it is 4"), {}, "the refinement states none in \\boxed{}"),
        (stream(r"\boxed{4}"), {}, None),
    ],
)
def test_why_there_is_no_answer(
    engine: Any, refinement: Completion | None, changes: dict[str, Any], reason: str | None
) -> None:
    result = refined(stream("x", "length"), refinement=refinement, **changes)
    assert results.Solved(engine, result).why_no_answer == reason


def test_shortened_summaries_are_told(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = refined(refinement=stream("x"), num_shortened=3, summary_tokens=370)
    results.Solved(engine, result).print()
    assert "of 3 solutions only the last 370 tokens" in capsys.readouterr().err


def test_a_stream_that_filled_the_context_is_told_so() -> None:
    more = SamplingParams(max_tokens=8)
    assert results.ending(stream("a", "length"), more) == (
        "length: cut at 7 tokens, where the context ends"
    )
    assert results.ending(stream("a", "length"), SEVEN) == "length: cut at 7 tokens"
    assert results.ending(stream("a"), more) == "stop, 7 tokens"
    assert results.ending(stream("a", "repetition"), more) == (
        "repetition: cut at 7 tokens, which ran in a loop"
    )
    assert results.ending(stream("a", "timeout"), more) == "timeout: cut at 7 tokens"


def test_without_an_answer_form_a_text_is_enough(
    engine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.prompts.gsr.template = TEMPLATES["plain"]
    engine.prompts.text_and_answer = lambda one: (one.text, None)
    result = refined(stream("x"), refinement=stream("y"), answer=None, num_stopped=3)
    solved = results.Solved(engine, result)
    solved.print()
    out, err = capsys.readouterr()
    assert out == "── candidate 1 (stop, 7 tokens)\nx\n── refined (stop, 7 tokens)\ny\n"
    assert err == "note: candidates that were stopped, because the others were enough: 3\n"
    assert solved.why_no_answer is None
    told = json.loads(solved.as_json(1.0, {}))
    assert (told["answer"], told["no_answer"], told["num_stopped"]) == (None, None, 3)
    empty = replace(result, text="")
    results.Solved(engine, empty).print()
    assert "no text after its thinking" in capsys.readouterr().err
