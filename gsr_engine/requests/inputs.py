"""What callers give, as token ids; what cannot fit is refused before it is tokenised."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gsr_engine.checkpoint.chat_template import Message, Variables
from gsr_engine.checkpoint.tokenizer import SpecialTokens, check_messages
from gsr_engine.errors import InvalidRequest, as_int, shown
from gsr_engine.requests.limits import CANDIDATE_CONTEXTS, Limits
from gsr_engine.text.problem_prompts import Problem
from gsr_engine.text.prompts import Prompts

ParamsT = TypeVar("ParamsT")


@dataclass(frozen=True, slots=True)
class Inputs:
    """Turns prompts, conversations and candidates into ids, and checks the lengths of texts.

    The work grows with the input, so it belongs into the thread of the caller. Any number of
    threads may use one at the same time. Every method raises InvalidRequest for what it refuses,
    and names the field.
    """

    prompts: Prompts
    limits: Limits

    def check_text(self, field: str, text: str, contexts: int = 1) -> None:
        """Refuse a text that is too long for that many contexts, whatever its tokens are."""
        self.limits.check_text(field, text, self.prompts.tokenizer.bytes_per_token, contexts)

    def prompt(self, prompt: object, special_tokens: SpecialTokens = "parse") -> list[int]:
        """The ids of a raw prompt, given as text or as ids."""
        if isinstance(prompt, str):
            self.check_text("prompt", prompt)
            return self.prompts.tokenizer.encode_prompt(prompt, special_tokens)
        if not isinstance(prompt, list | tuple):
            raise InvalidRequest("prompt", f"must be text or token ids, got {shown(prompt)}")
        return list(prompt)

    def problem(self, problem: object) -> Problem:
        """A problem, given as text or as a conversation."""
        if isinstance(problem, str):
            self.check_text("problem", problem.strip())
            return problem
        if not isinstance(problem, Sequence):
            raise InvalidRequest(
                "problem", f"must be text or a list of messages, got {type(problem).__name__}"
            )
        self.check_text("problem", "".join(check_messages("problem", problem)))
        return problem

    def chat(self, messages: Sequence[Message], variables: Variables) -> list[int]:
        """The ids of a conversation through the chat template."""
        self.check_text("messages", "".join(check_messages("messages", messages)))
        return self.prompts.varied(variables).chat(messages)

    def candidate(self, candidate: object) -> list[int]:
        """The ids of a given candidate, given as text or as ids."""
        if isinstance(candidate, str):
            self.check_text("candidates", candidate, CANDIDATE_CONTEXTS)
            candidate = self.prompts.solution(candidate)
        elif not isinstance(candidate, list | tuple):
            raise InvalidRequest("candidates", f"must be text or token ids, got {shown(candidate)}")
        return self.limits.check_candidate("candidates", candidate)


def as_list(field: str, items: object) -> list[Any]:
    """Several inputs as they are; a single one as a list of it.

    A single one is a text, a conversation (a list of messages) or a prompt in token ids.

    Raises:
        InvalidRequest: `items` is none of these, and no collection.
    """
    if isinstance(items, str):
        return [items]
    if not isinstance(items, Collection) or isinstance(items, Mapping | bytes):
        raise InvalidRequest(field, f"must be a list, got {shown(items)}")
    every = list(items)
    single = every and all(isinstance(one, Mapping) or as_int(one) is not None for one in every)
    return [every] if single else every


def one_each(
    field: str,
    items: object,
    params: ParamsT | Sequence[ParamsT] | None,
    kind: type[ParamsT],
) -> list[tuple[Any, ParamsT]]:
    """Pair every item with its parameters: one for all (the default if None), or one for each.

    A single item stands for a list of it, as in `as_list`.

    Raises:
        InvalidRequest: `items` is no collection, or `params` has another type or length.
    """
    every = as_list(field, items)
    if params is None or isinstance(params, kind):
        params = [kind() if params is None else params] * len(every)
    if not isinstance(params, Sequence) or not all(isinstance(one, kind) for one in params):
        raise InvalidRequest(
            "params", f"must be {kind.__name__} or a list of them, got {shown(params)}"
        )
    if len(params) != len(every):
        raise InvalidRequest("params", f"{len(params)} of them for {len(every)} {field}")
    return list(zip(every, params, strict=True))
