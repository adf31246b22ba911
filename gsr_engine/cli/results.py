"""Results as text and as JSON. What a model wrote is printed as it is, byte for byte."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from gsr_engine.engine import Engine
from gsr_engine.outputs import Completion, GenerateResult, RefineResult, Usage
from gsr_engine.text.answers import majority, same_answer


def say(text: str) -> None:
    """A line of the model's text or around it, on stdout."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line about the run, on stderr."""
    print(f"note: {text}", file=sys.stderr)


def ending(completion: Completion) -> str:
    """How a stream ended, and after how many tokens; a cut is named one."""
    tokens = f"{len(completion.token_ids):,} tokens"
    if completion.finish_reason == "length":
        return f"length: cut at {tokens}"
    return f"{completion.finish_reason}, {tokens}"


def print_generated(result: GenerateResult) -> None:
    """The streams of `gsr generate`: a single one is printed alone."""
    several = len(result.completions) > 1
    for completion in result.completions:
        if several:
            say(f"── {completion.index + 1} ({ending(completion)})")
        say(completion.text)
        if not several and completion.finish_reason != "stop":
            note(ending(completion))


def print_solved(engine: Engine, result: RefineResult) -> None:
    """The candidates, the refinement, and the answers of all."""
    for candidate in result.candidates:
        answer = engine.find_answer(candidate)
        stated = "no answer" if answer is None else f"answer {answer}"
        say(f"── candidate {candidate.index + 1} ({ending(candidate)}, {stated})")
        say(candidate.text)
    if result.refinement is None:
        say(f"── not refined: {why_no_answer(engine, result)}")
    else:
        say(f"── refined ({ending(result.refinement)})")
        say(result.text or result.refinement.text)
    if result.num_shortened:
        note(
            f"of {result.num_shortened} solutions only the last {result.summary_tokens} tokens "
            "were shown to the refinement: the context has no room for more"
        )
    if result.candidates:
        winner, votes = _majority(engine, result.candidates)
        stated = f"{winner} ({votes} of {len(result.candidates)})" if votes else "none"
        say(f"majority: {stated}")
    if result.answer is not None:
        say(f"answer: {result.answer}")
    else:
        say(f"answer: none: {why_no_answer(engine, result)}")


def why_no_answer(engine: Engine, result: RefineResult) -> str | None:
    """Why a result has no answer; None if it has one."""
    if result.answer is not None:
        return None
    if result.error is not None:
        cut = sum(one.finish_reason == "length" for one in result.candidates)
        empty = sum(not engine.solution_text(one).strip() for one in result.candidates)
        hints = [f"{cut} were cut: raise --max-tokens"] if cut else []
        hints += [f"{empty} have no text after their thinking"] if empty else []
        return "; ".join([result.error, *hints])
    refinement = result.refinement
    if refinement is None:
        return "the refinement never began"
    if refinement.finish_reason == "length":
        return f"the refinement was cut at {len(refinement.token_ids):,} tokens: raise --max-tokens"
    if not result.text.strip():
        return "the refinement has no text after its thinking"
    if engine.gsr.answer_pattern is None:
        return "the refinement states none in \\boxed{}"
    return "the refinement states none as the checkpoint's answer_pattern wants it"


def _majority(engine: Engine, candidates: Sequence[Completion]) -> tuple[str | None, int]:
    """The answer that most candidates state, and how many do."""
    answers = [engine.find_answer(candidate) for candidate in candidates]
    best = majority(answers)
    if best is None:
        return None, 0
    return answers[best], sum(same_answer(answer, answers[best]) for answer in answers)


def generated_json(result: GenerateResult, seconds: float) -> str:
    """The result of `gsr generate`."""
    completions = [_completion(one) for one in result.completions]
    return json.dumps(
        {"completions": completions, "error": result.error, **_cost(result.usage, seconds)}
    )


def solved_json(engine: Engine, result: RefineResult, seconds: float) -> str:
    """The result of `gsr solve`."""

    def stream(one: Completion | None) -> dict[str, Any] | None:
        return None if one is None else {**_completion(one), "answer": engine.find_answer(one)}

    return json.dumps(
        {
            "text": result.text,
            "answer": result.answer,
            "no_answer": why_no_answer(engine, result),
            "error": result.error,
            "used": result.used,
            "candidates": [stream(one) for one in result.candidates],
            "refinement": stream(result.refinement),
            "majority": _majority(engine, result.candidates)[0],
            "summary_tokens": result.summary_tokens,
            **_cost(result.usage, seconds),
        }
    )


def _cost(usage: Usage, seconds: float) -> dict[str, Any]:
    return {
        "usage": usage.as_dict(),
        "seconds": seconds,
        "tokens_per_second": usage.completion_tokens / seconds if seconds else 0.0,
    }


def _completion(completion: Completion) -> dict[str, Any]:
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.token_ids),
        "logprob": completion.logprob,
    }
