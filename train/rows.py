"""Training rows: the engine's own prompts, each followed by a target.

A row is one sequence of tokens. In the branched layout it forks after the direct prompt into the
candidates, which do not see one another. It joins again in the refinement, which sees them all.
`Row.positions` and `Row.branches` say this per token. All later tokens see branch 0. A candidate is
a branch i > 0, which sees branch 0 and itself. `JOIN` sees everything before it. This is the
engine's context of spans, written for one forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gsr_engine.text.problem_prompts import ProblemPrompts
from train.objectives import DIRECT, REFINE

JOIN = 10_000
"""Branch of tokens that see every branch before them."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Row:
    """One training sequence. The tokens from `target_start` on are learnt.

    Attributes:
        objective: name of the objective that it is learnt for.
        token_ids: all tokens: prompt, candidates side by side if branched, glue, target.
        target_start: index of the first token that is learnt.
        fork: number of tokens before the branches, and the first position of each branch.
        branch_lengths: tokens of each branch; empty if the row is causal.
        join_position: position of the first token after the branches.
    """

    objective: str
    token_ids: Sequence[int]
    target_start: int
    fork: int = 0
    branch_lengths: Sequence[int] = ()
    join_position: int = 0

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_targets(self) -> int:
        """Tokens that the loss counts."""
        return len(self.token_ids) - self.target_start

    @property
    def positions(self) -> Ids:
        """Position of every token."""
        if not len(self.branch_lengths):
            return np.arange(len(self))
        joined = len(self) - self.fork - sum(self.branch_lengths)
        pieces = [np.arange(self.fork)]
        pieces += [np.arange(self.fork, self.fork + length) for length in self.branch_lengths]
        pieces.append(np.arange(self.join_position, self.join_position + joined))
        return np.concatenate(pieces)

    @property
    def branches(self) -> Ids:
        """Branch of every token: 0, the number of its candidate from 1 on, or `JOIN`."""
        branches = np.zeros(len(self), np.int64)
        if len(self.branch_lengths):
            candidates = np.repeat(np.arange(len(self.branch_lengths)) + 1, self.branch_lengths)
            branches[self.fork : self.fork + len(candidates)] = candidates
            branches[self.fork + len(candidates) :] = JOIN
        return branches


def direct_row(problem: ProblemPrompts, target: list[int]) -> Row:
    """Solve directly. `target` ends with the end token."""
    return Row(DIRECT.name, problem.direct + target, len(problem.direct))


def linear_row(problem: ProblemPrompts, summaries: list[list[int]], target: list[int]) -> Row:
    """Refine in the linear layout: problem, summaries and instruction in one sequence."""
    prompt = problem.linear(summaries)
    return Row(REFINE.name, prompt + target, len(prompt))


def branched_row(problem: ProblemPrompts, summaries: list[list[int]], target: list[int]) -> Row:
    """Refine in the branched layout: the summaries side by side, right after the prompt."""
    fork = len(problem.direct)
    lengths = [len(summary) for summary in summaries]
    begin = problem.branched_position(fork, fork + max(lengths))
    candidates = [token for summary in summaries for token in summary]
    before = [*problem.direct, *candidates, *problem.branched_glue]
    return Row(REFINE.name, before + target, len(before), fork, lengths, begin)
