"""One problem in one repeat of a run: its candidates, and what each method made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property


@dataclass(kw_only=True)
class Solution:
    """One generated solution.

    Attributes:
        answer: the answer found in it; None if it states none.
        tokens: generated, the end token included.
        logprobs: log-probability of each generated token under the model at temperature 1, rounded
            to four decimals; empty if the generator tells none.
        finish_reason: as of `Completion`.
        token_ids: without the end token; empty if the generator tells none.
        reward: of a reward model; None without one.
        error: why it failed; None if it did not.
    """

    text: str
    answer: str | None
    correct: bool
    tokens: int
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = "stop"
    token_ids: list[int] = field(default_factory=list)
    reward: float | None = None
    error: str | None = None

    @cached_property
    def logprob(self) -> float:
        """Log-probability of the whole solution."""
        return sum(self.logprobs)


@dataclass(kw_only=True)
class Answer(Solution):
    """The solution of a method that generates; what it read, and what that took.

    Attributes:
        method: its `Method.name`.
        used: candidates that it read, by index, in the order it read them.
        pools: of each of these its `Pool`; empty if all are the problem's own.
        stated: the answer of each of these; empty if all are the problem's own.
        prompt_tokens: tokens of its prompts, candidates included, whoever computed them.
        generated_tokens: of all its rounds; `tokens` are those of the solution alone.
        sequential_tokens: generated one after the other: the longest of each round.
        computed_tokens: that went through the model for it, with prompts (measured).
        seconds: its share of the engine's time (measured).
    """

    method: str
    used: list[int] = field(default_factory=list)
    pools: list[str] = field(default_factory=list)
    stated: list[str | None] = field(default_factory=list)
    prompt_tokens: int = 0
    generated_tokens: int = 0
    sequential_tokens: int = 0
    computed_tokens: int = 0
    seconds: float = 0.0


@dataclass(kw_only=True)
class Sample:
    """One problem in one repeat.

    Attributes:
        repeat: of the whole pipeline, from 0; each repeat has seeds of its own.
        id: of the problem; with `repeat` it is unique in a run.
        size: results are grouped by it (puzzle length, level); "" for no grouping.
        prompt_tokens: of the direct prompt.
        candidates: drawn at the candidate temperature; a method at k reads the first k.
        weak: candidates of the weaker model; empty without one.
        answers: of every method, in the order of the run.
        seconds: the candidates' share of the engine's time (measured).
    """

    task: str
    repeat: int
    id: str
    problem: str
    gold: str
    size: str
    prompt_tokens: int
    candidates: list[Solution]
    weak: list[Solution] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0

    def answer_of(self, method: str) -> Answer:
        """What a method made of the problem; KeyError if it has no such answer."""
        for answer in self.answers:
            if answer.method == method:
                return answer
        raise KeyError(method)
