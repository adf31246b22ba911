"""Training rows: the engine's own prompts with a target behind them.

A row is one sequence of tokens with explicit positions and a *branch* per token, which says what it
may see: branch 0 is seen by all that follow, branch i > 0 (a candidate) sees branch 0 and itself,
and `JOIN` (a branched refinement) sees everything before it. That is the context of spans of the
engine, written for one forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gsr_engine.prompts import Prompts

Objective = Literal["direct", "refine"]
JOIN = 10_000
"""Branch of tokens that see every branch before them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One training sequence; the tokens from `target_start` on are learnt."""

    objective: Objective
    token_ids: list[int]
    positions: list[int]
    branches: list[int]
    target_start: int

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_targets(self) -> int:
        """Tokens that the loss counts."""
        return len(self.token_ids) - self.target_start


def _sequential(objective: Objective, prompt: list[int], target: list[int]) -> Row:
    token_ids = prompt + target
    count = len(token_ids)
    return Row(objective, token_ids, list(range(count)), [0] * count, len(prompt))


def direct_row(prompts: Prompts, problem: list[int], target: list[int]) -> Row:
    """Solve directly. `target` ends with the end token."""
    return _sequential("direct", prompts.direct(problem).token_ids, target)


def linear_row(
    prompts: Prompts, problem: list[int], summaries: list[list[int]], target: list[int]
) -> Row:
    """Refine in the linear layout: problem, summaries and instruction in one sequence."""
    return _sequential("refine", prompts.linear(problem, summaries), target)


def branched_row(
    prompts: Prompts, problem: list[int], summaries: list[list[int]], target: list[int]
) -> Row:
    """Refine in the branched layout: each summary beside the others, right behind the prompt."""
    token_ids = list(prompts.direct(problem).token_ids)
    fork = len(token_ids)
    positions = list(range(fork))
    branches = [0] * fork
    for index, summary in enumerate(summaries, start=1):
        token_ids += summary
        positions += range(fork, fork + len(summary))
        branches += [index] * len(summary)
    glue = prompts.branched_glue(problem)
    longest = fork + max(map(len, summaries))
    begin = prompts.branched_position(fork, len(glue), longest)
    joined = glue + target
    return Row(
        objective="refine",
        token_ids=token_ids + joined,
        positions=positions + list(range(begin, begin + len(joined))),
        branches=branches + [JOIN] * len(joined),
        target_start=len(token_ids) + len(glue),
    )
