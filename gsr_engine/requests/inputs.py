"""What callers give, as token ids; what cannot fit is refused before it is tokenised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from gsr_engine.checkpoint.tokenizer import Message, Tokenizer
from gsr_engine.errors import InvalidRequest, shown
from gsr_engine.requests.limits import CANDIDATE_CONTEXTS, Limits


@dataclass(frozen=True, slots=True)
class Inputs:
    """Turns prompts, conversations and candidates into ids, and checks the lengths of texts.

    The work grows with the input, so it belongs into the thread of the caller. Any number of
    threads may use one at the same time. Every method raises InvalidRequest for what it refuses,
    and names the field.
    """

    tokenizer: Tokenizer
    limits: Limits

    def check_text(self, field: str, text: str, contexts: int = 1) -> None:
        """Refuse a text that is too long for that many contexts, whatever its tokens are."""
        self.limits.check_text(field, text, self.tokenizer.bytes_per_token, contexts)

    def prompt(self, prompt: object) -> list[int]:
        """The ids of a raw prompt, given as text or as ids."""
        if isinstance(prompt, str):
            self.check_text("prompt", prompt)
            return self.tokenizer.encode_prompt(prompt)
        if not isinstance(prompt, list | tuple):
            raise InvalidRequest("prompt", f"must be text or token ids, got {shown(prompt)}")
        return list(prompt)

    def check_problem(self, problem: object) -> str:
        """The text of a problem; the white space around it does not count."""
        if not isinstance(problem, str):
            raise InvalidRequest("problem", f"must be text, got {type(problem).__name__}")
        self.check_text("problem", problem.strip())
        return problem

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation through the chat template."""
        return self.tokenizer.chat(messages, partial(self.check_text, "messages"))

    def candidate(self, candidate: object) -> list[int]:
        """The ids of a given candidate, given as text or as ids."""
        if isinstance(candidate, str):
            self.check_text("candidates", candidate, CANDIDATE_CONTEXTS)
            candidate = self.tokenizer.encode_text(candidate)
        elif not isinstance(candidate, list | tuple):
            raise InvalidRequest("candidates", f"must be text or token ids, got {shown(candidate)}")
        return self.limits.check_candidate("candidates", candidate)
