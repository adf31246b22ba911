"""A conversation to be held: how many calls, and how many tokens each of them adds."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gsr_engine import InvalidRequest

FIRST_TOKEN = 6
"""The user says no token below this one: the first ids are often special tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Calls in a row; each prompt is everything said so far and what the user adds.

    Attributes:
        work: "chat" (turns), or "tokens" (a caller that asks for one token at a time).
        calls: how many.
        first: tokens of the first prompt.
        added: tokens that the user adds before each later call.
        generated: tokens of each answer.
    """

    work: str
    calls: int
    first: int
    added: int
    generated: int

    @property
    def length(self) -> int:
        """Tokens of everything that is said in the end."""
        return self.first + (self.calls - 1) * self.added + self.calls * self.generated

    def check(self, limit: int) -> None:
        """Raise InvalidRequest if the conversation outgrows a context of `limit` tokens."""
        if self.calls < 1:
            raise InvalidRequest("calls", f"must be an integer above 0, got {self.calls}")
        if self.length > limit:
            raise InvalidRequest(
                "calls",
                f"{self.calls} of them come to {self.length} tokens, "
                f"above the checkpoint's {limit}",
            )


class Conversation:
    """What was said so far; the user's tokens are drawn with a seed, so every run says the same.

    Attributes:
        token_ids: everything said so far.
    """

    def __init__(self, script: Script, vocab_size: int, seed: int = 0) -> None:
        self.token_ids: list[int] = []
        self._script, self._vocab_size = script, vocab_size
        self._rng = random.Random(seed)

    def ask(self) -> list[int]:
        """Say what the user says; returns the next prompt."""
        count = self._script.added if self.token_ids else self._script.first
        self.token_ids += (self._rng.randrange(FIRST_TOKEN, self._vocab_size) for _ in range(count))
        return list(self.token_ids)

    def answer(self, token_ids: list[int]) -> None:
        """Say what was generated."""
        self.token_ids += token_ids


def chat(turns: int, added: int, generated: int) -> Script:
    """Turns of a user's and a model's tokens."""
    return Script(work="chat", calls=turns, first=added, added=added, generated=generated)


def token_by_token(calls: int, first: int = 32) -> Script:
    """A caller that asks for one token, and then again with it."""
    return Script(work="tokens", calls=calls, first=first, added=0, generated=1)
