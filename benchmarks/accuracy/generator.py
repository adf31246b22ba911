"""What a run needs of whoever writes solutions: an engine in this process, or a server."""

from __future__ import annotations

import collections.abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from benchmarks.samples.method import Method
from benchmarks.samples.sample import Answer, Solution
from gsr_engine.errors import InvalidRequest
from gsr_engine.params import Layout

DECIMALS = 4
"""Of a log-probability."""
ResultT = TypeVar("ResultT")
Results = collections.abc.Generator[tuple[int, ResultT], None, None]
"""Results with the indices of their problems, as they come. What is unfinished is given up when it
is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Direct solutions of every problem, sampled as candidates are.

    Attributes:
        count: per problem.
        seed: the same seed draws the same solutions, whichever problems are asked together.
    """

    count: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The direct solutions of one problem.

    Attributes:
        solutions: as many as were asked for; none if there is an error.
        prompt_tokens: of the direct prompt.
        seconds: the problem's share of the generator's time.
        error: why it failed for good; None if it did not.
    """

    solutions: list[Solution]
    prompt_tokens: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndToEnd:
    """selfRef@k of one problem, candidates generated: what it cost.

    Attributes:
        candidates, answer: what was generated.
        phases: counts by phase, as of `Usage.as_dict`.
    """

    candidates: list[Solution]
    answer: Answer
    phases: dict[str, dict[str, float]]


def failed_answer(method: Method, error: str) -> Answer:
    """The answer of a method that failed for good."""
    return Answer(
        method=method.name,
        text="",
        answer=None,
        correct=False,
        tokens=0,
        finish_reason="error",
        error=error,
    )


class Generator(Protocol):
    """Draws candidates, and answers by methods, for a fixed list of problems; grades nothing.

    All solutions come with `correct` False: the run grades them. An answer that fails for good has
    an `error`, and `finish_reason` "error". What may pass (a server that is down) is raised as a
    `GsrError`: then the run ends, and the same command goes on later.
    """

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The layouts that the model claims."""
        ...

    @property
    def tokens_generated(self) -> int:
        """Tokens since the start, those of unfinished solutions included; for the progress."""
        ...

    def watch(self, on_step: Callable[[], object]) -> None:
        """Call this at least every few seconds while solutions are generated."""
        ...

    def settings(self) -> dict[str, Any]:
        """What shapes its solutions: digests, dtype, hashes of templates; plain values."""
        ...

    def refusal(self, index: int, draw: Draw, methods: Sequence[Method]) -> InvalidRequest | None:
        """Why a problem cannot be asked in one of these ways; None if it can.

        Nothing is generated. An error whose `field` is neither "problem" nor "prompt" concerns the
        settings of the run, and not the problem alone.
        """
        ...

    def draw_each(self, draw: Draw, indices: Iterable[int]) -> Results[Drawn]:
        """Candidates of some problems."""
        ...

    def answer_each(
        self,
        method: Method,
        seed: int,
        indices: Iterable[int],
        given: Mapping[int, Sequence[Solution]],
    ) -> Results[Answer]:
        """Answers of some problems by one method.

        Args:
            method: how. With an `order` above 0 solutions are read in the order given.
            seed: of orders and refinements.
            indices: of the problems.
            given: what is read, by problem. Solutions of this generator have `token_ids`, others
                only a text. Greedy reads none.

        Returns:
            Answers; `used` holds indices of what was given, in the order it was read.
        """
        ...

    def end_to_end_each(
        self, method: Method, seed: int, indices: Iterable[int]
    ) -> Results[EndToEnd]:
        """Refinements of some problems, candidates generated, for their cost.

        A generator that cannot tell the cost by phase yields nothing.
        """
        ...
