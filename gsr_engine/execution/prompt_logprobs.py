"""Log-probabilities of the tokens of prompts, from the logits of the rows before them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from csrc_triton import token_logprobs
from gsr_engine.execution.logits import listed_tops, top_logprobs
from gsr_engine.execution.sampler import Draws, PendingDraws
from gsr_engine.requests.prompt_scores import Score
from gsr_engine.step.plan import ScoredTokens, StepPlan
from gsr_engine.step.transfer import Fetched, to_device

SCORED_ROWS = 128
"""Rows whose logits exist at the same time, however long a prompt is. These logits, a copy of them
and their log-softmax take about 1.5 KiB for each token of the vocabulary: 230 MiB for 152,000. With
no top tokens it is a third of that."""


class _Piece:
    """The scores of at most `SCORED_ROWS` tokens, which a GPU may still be computing."""

    def __init__(self, logits: torch.Tensor, token_ids: list[int], wanted: list[int]) -> None:
        targets = to_device(np.array(token_ids, dtype=np.int64), logits.device)
        tops = top_logprobs(logits, wanted) if any(wanted) else []
        self._wanted = wanted
        self._fetched = Fetched([token_logprobs(logits, targets), *tops])

    def wait(self) -> Iterable[Score]:
        """One score for each token; waits until they are computed."""
        logprobs, *tops = self._fetched.wait()
        listed = listed_tops(self._wanted, *tops) if tops else [None] * len(logprobs)
        return zip(logprobs, listed, strict=True)


class PendingScores:
    """The draws of a step and the scores of prompts beside them."""

    def __init__(self, draws: PendingDraws, pieces: list[_Piece]) -> None:
        self._draws = draws
        self._pieces = pieces

    def wait(self) -> Draws:
        """Both; waits until they are computed."""
        scores = [score for piece in self._pieces for score in piece.wait()]
        return self._draws.wait()._replace(scores=scores)


def score_prompts(
    plan: StepPlan, hidden: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor]
) -> list[_Piece]:
    """Score the tokens that a plan wants scored; on a GPU this does not wait for them.

    Args:
        plan: a plan of a step.
        hidden: [tokens that are scored, hidden_size], the row before each of them.
        logits: hidden states to logits, at most `SCORED_ROWS` rows at a time.
    """
    token_ids = [token for part in plan.scored for token in _token_ids(plan, part)]
    wanted = [count for part in plan.scored for count in [_num_top(plan, part)] * len(part)]
    starts = range(0, len(token_ids), SCORED_ROWS)
    return [
        _Piece(logits(hidden[rows]), token_ids[rows], wanted[rows])
        for rows in (slice(start, start + SCORED_ROWS) for start in starts)
    ]


def _token_ids(plan: StepPlan, part: ScoredTokens) -> list[int]:
    return plan.chunks[part.index].segment.token_ids[part.start : part.stop]


def _num_top(plan: StepPlan, part: ScoredTokens) -> int:
    scores = plan.chunks[part.index].group.scores
    return scores.num_top if scores is not None else 0
