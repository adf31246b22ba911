"""Runs that no model made: every candidate and answer is stated by a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.samples.folder import Run
from benchmarks.samples.method import Method
from benchmarks.samples.sample import Answer, Sample, Solution

GREEDY = Method(name="greedy", kind="greedy")
LINEAR = Method(name="selfref linear@4", kind="selfref", layout="linear", k=4)
GOLD = "7"


def solution(answer: str | None, **changed: Any) -> Solution:
    """A candidate of ten tokens that states an answer; 7 is right."""
    values: dict[str, Any] = {
        "text": f"so \\boxed{{{answer}}}",
        "answer": answer,
        "correct": answer == GOLD,
        "tokens": 10,
        "logprobs": [-0.1] * 10,
        "token_ids": [1] * 9,
        **changed,
    }
    return Solution(**values)


def answer_of(method: str, answer: str | None, **changed: Any) -> Answer:
    """What a method made of a problem: ten tokens, after a prompt of sixty."""
    values: dict[str, Any] = {
        "prompt_tokens": 60,
        "generated_tokens": 10,
        "sequential_tokens": 10,
        "computed_tokens": 60,
        "seconds": 0.5,
        "used": [0, 1, 2, 3],
        **asdict(solution(answer)),
        **changed,
    }
    return Answer(method=method, **values)


def sample(
    id: str, candidates: Sequence[str | None], answers: dict[str, str | None], **changed: Any
) -> Sample:
    """A problem with candidates by their answers, and methods by theirs."""
    values: dict[str, Any] = {
        "task": "made",
        "repeat": 0,
        "problem": f"problem {id}",
        "gold": GOLD,
        "size": "",
        "prompt_tokens": 20,
        "seconds": 1.0,
        **changed,
    }
    return Sample(
        id=id,
        candidates=[solution(one) for one in candidates],
        answers=[answer_of(name, answer) for name, answer in answers.items()],
        **values,
    )


def run_of(samples: list[Sample], methods: Sequence[Method] = (GREEDY, LINEAR)) -> Run:
    """A finished run of these samples."""
    settings = {
        "task": "made",
        "model": "made by hand",
        "k": [1, 4],
        "headline": 4,
        "repeats": 1 + max(one.repeat for one in samples),
        "temperature": 1.0,
        "max_tokens": 64,
        "methods": [asdict(one) for one in methods],
    }
    facts = {
        "settings": settings,
        "left_out": [],
        "machine": {"torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.7"},
        "measured": {"date": "2026-11-29", "seconds": 3.0, "cost": {}},
    }
    return Run(facts, samples)
