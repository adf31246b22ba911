"""What one method did with every sample: hits and cost. All figures are computed from these.

Cost has two axes. *Total tokens* are all that go through the model: the direct prompt once, every
candidate that the method needs, and what a refinement computes besides. *Sequential tokens* are
those that are generated one after the other if everything else runs in parallel: latency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.analysis.candidates import Candidates
from benchmarks.analysis.intervals import Floats, Ints
from benchmarks.samples.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of each sample what a method spends, and how its solutions end: arrays over samples.

    Attributes:
        generated: tokens, those of the candidates included.
        prompt: tokens of all prompts, whoever computed them.
        total: tokens computed.
        sequential: tokens generated one after the other.
        cut: share of the solutions it takes the answer from that were cut.
        unanswered: 1 where it has no answer.
    """

    generated: Floats
    prompt: Floats
    total: Floats
    sequential: Floats
    cut: Floats
    unanswered: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One method over all samples.

    Attributes:
        name: what tables call it.
        family: the methods that differ from it in k alone.
        k: candidates that it reads.
        hits: 1 where it is right, or the share that is.
        cost: what it spends.
        method: what was generated for it; None for a selection among candidates.
        oracle: it knows which candidate is right: a bound, not a method.
        saved: share of the k candidates' tokens that it did not generate; None if it stops none.
    """

    name: str
    family: str
    k: int
    hits: Floats
    cost: Cost
    method: Method | None = None
    oracle: bool = False
    saved: float | None = None

    @property
    def is_graded(self) -> bool:
        """Whether each sample is right or wrong, and not a share."""
        return bool(((self.hits == 0) | (self.hits == 1)).all())


def drawn_cost(candidates: Candidates, k: int, cut: Floats, unanswered: Floats) -> Cost:
    """Of drawing the first k candidates to their ends, in parallel."""
    tokens = candidates.tokens[:, :k]
    return spent(candidates, tokens.sum(axis=1), tokens.max(axis=1), cut, unanswered)


def spent(
    candidates: Candidates,
    generated: Floats | Ints,
    sequential: Floats | Ints,
    cut: Floats,
    unanswered: Floats,
) -> Cost:
    """Of candidates alone: the direct prompt is computed once for all of them."""
    prompt = candidates.prompt.astype(float)
    return Cost(
        generated=np.asarray(generated, float),
        prompt=prompt,
        total=prompt + generated,
        sequential=np.asarray(sequential, float),
        cut=cut,
        unanswered=unanswered,
    )
