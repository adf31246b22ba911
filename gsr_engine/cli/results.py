"""Results as text and as JSON. What a model wrote is printed as it is, byte for byte."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gsr_engine.cli.terminal import note
from gsr_engine.engine import Engine
from gsr_engine.outputs import CUT, Completion, GenerateResult, RefineResult, Usage
from gsr_engine.params import SamplingParams
from gsr_engine.text.answers import majority, same_answer
from gsr_engine.text.prompts import Prompts


def say(text: str) -> None:
    """A line of the model's text or around it, on stdout."""
    sys.stdout.write(text + "\n")


def ending(completion: Completion, params: SamplingParams) -> str:
    """How a stream ended, and after how many tokens; a cut is named one."""
    reason, tokens = completion.finish_reason, f"{len(completion.token_ids):,} tokens"
    if reason not in CUT:
        return f"{reason}, {tokens}"
    where = ", which ran in a loop" if reason == "repetition" else ""
    if reason == "length":
        where = _cut_by_context(completion, params)
    return f"{reason}: cut at {tokens}{where}"


def _cut_by_context(completion: Completion, params: SamplingParams) -> str:
    below = params.max_tokens is None or len(completion.token_ids) < params.max_tokens
    return ", where the context ends" if below else ""


def print_generated(result: GenerateResult) -> None:
    """The streams of `gsr generate`: a single one is printed alone."""
    several = len(result.completions) > 1
    for completion in result.completions:
        if several:
            say(f"── {completion.index + 1} ({ending(completion, result.params)})")
        say(completion.text)
        if not several and completion.finish_reason != "stop":
            note(ending(completion, result.params))
    if result.error is not None:
        note(result.error)


def generated_json(result: GenerateResult, seconds: float, sampling: dict[str, Any]) -> str:
    """The result of `gsr generate`, with its sampling values."""
    scored = result.prompt_logprobs
    return json.dumps(
        {
            "completions": [_completion(one) for one in result.completions],
            "prompt_logprobs": None if scored is None else asdict(scored),
            "error": result.error,
            "sampling": sampling,
            **_cost(result.usage, seconds),
        }
    )


@dataclass(frozen=True, slots=True)
class Solved:
    """The result of `gsr solve`, and the engine that made it."""

    engine: Engine
    result: RefineResult

    def print(self) -> None:
        """The candidates, the refinement, and the answers of all."""
        result, asked = self.result, self._prompts.gsr.template.answer_form
        for candidate in result.candidates:
            answer = self._answer(candidate)
            stated = "no answer" if answer is None else f"answer {answer}"
            how = ending(candidate, result.params.candidate)
            say(f"── candidate {candidate.index + 1} ({how}{f', {stated}' if asked else ''})")
            say(candidate.text)
        for number, solutions in enumerate(result.rounds[:-1], start=1):
            winner, votes = self._majority(solutions)
            of = f": majority {winner} ({votes} of {len(solutions)})" if votes and asked else ""
            say(f"── round {number}, {len(solutions)} solutions{of}")
        if result.refinement is None:
            say(f"── not refined: {self.why_no_answer}")
        else:
            say(f"── refined ({ending(result.refinement, result.params.refine)})")
            say(result.text or result.refinement.text)
        if result.num_shortened:
            note(
                f"of {result.num_shortened} solutions only the last {result.summary_tokens} tokens "
                "were shown to the refinement: the context has no room for more"
            )
        if result.num_stopped:
            count = result.num_stopped
            note(f"candidates that were stopped, because the others were enough: {count}")
        if not asked:
            if self.why_no_answer is not None:
                note(self.why_no_answer)
            return
        if result.candidates:
            winner, votes = self._majority(result.candidates)
            stated = f"{winner} ({votes} of {len(result.candidates)})" if votes else "none"
            say(f"majority: {stated}")
        found = f"none: {self.why_no_answer}" if result.answer is None else result.answer
        say(f"answer: {found}")

    def as_json(self, seconds: float, sampling: dict[str, Any]) -> str:
        """The same as one JSON object, with its sampling values, and what it took."""

        def stream(one: Completion | None) -> dict[str, Any] | None:
            return None if one is None else {**_completion(one), "answer": self._answer(one)}

        result = self.result
        return json.dumps(
            {
                "text": result.text,
                "answer": result.answer,
                "no_answer": self.why_no_answer,
                "error": result.error,
                "used": result.used,
                "candidates": [stream(one) for one in result.candidates],
                "rounds": [[stream(one) for one in every] for every in result.rounds],
                "refinement": stream(result.refinement),
                "majority": self._majority(result.candidates)[0],
                "summary_tokens": result.summary_tokens,
                "num_shortened": result.num_shortened,
                "num_stopped": result.num_stopped,
                "sampling": sampling,
                **_cost(result.usage, seconds),
            }
        )

    @property
    def _prompts(self) -> Prompts:
        """Those of the request."""
        return self.engine.prompts.templated(self.result.params.template)

    def _answer(self, one: Completion) -> str | None:
        return self._prompts.text_and_answer(one)[1]

    @property
    def why_no_answer(self) -> str | None:
        """Why there is no answer; None if there is one, or a text where no form is asked for."""
        result, refinement = self.result, self.result.refinement
        if result.answer is not None:
            return None
        if result.error is not None:
            return "; ".join([result.error, *self._hints()])
        if refinement is None:
            return "the refinement never began"
        if result.text.strip() and not self._prompts.gsr.template.answer_form:
            return None
        if refinement.finish_reason == "length":
            end = _cut_by_context(refinement, result.params.refine) or ": raise --max-tokens"
            return f"the refinement was cut at {len(refinement.token_ids):,} tokens{end}"
        if refinement.finish_reason == "repetition":
            return f"the refinement ran in a loop, cut at {len(refinement.token_ids):,} tokens"
        if refinement.finish_reason == "timeout":
            return f"the timeout cut the refinement at {len(refinement.token_ids):,} tokens"
        if not result.text.strip():
            return "the refinement has no text after its thinking"
        if self.engine.gsr.answer_pattern is None:
            return "the refinement states none in \\boxed{}"
        return "the refinement states none as the checkpoint's answer_pattern wants it"

    def _hints(self) -> list[str]:
        """What the candidates lack."""
        candidates = self.result.candidates
        reasons = [one.finish_reason for one in candidates]
        cut, looped = reasons.count("length"), reasons.count("repetition")
        empty = sum(not self.engine.solution_text(one).strip() for one in candidates)
        hints = [f"{cut} were cut: raise --max-tokens"] if cut else []
        hints += [f"{looped} ran in a loop"] if looped else []
        return hints + ([f"{empty} have no text after their thinking"] if empty else [])

    def _majority(self, solutions: Sequence[Completion]) -> tuple[str | None, int]:
        """The answer that most solutions state, and how many do."""
        answers = [self._answer(one) for one in solutions]
        best = majority(answers)
        if best is None:
            return None, 0
        return answers[best], sum(same_answer(answer, answers[best]) for answer in answers)


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
        "stop_reason": completion.stop_reason,
        "tokens": len(completion.token_ids),
        "logprob": completion.logprob,
    }
