"""The candidates of a run as arrays over samples, and votes among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.analysis.confidence import NONE, Confidence, confidence_of
from benchmarks.analysis.intervals import Bools, Floats, Ints
from benchmarks.samples.sample import Sample, Solution
from gsr_engine.errors import InvalidRequest
from gsr_engine.outputs import CUT
from gsr_engine.text.answers import group_answers

NOBODY = -1
"""The group of a candidate without an answer, and the winner of a vote without votes."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """All candidates: arrays of samples × candidates, in the order they were drawn.

    Attributes:
        correct: whether each is right.
        group: equal answers of one sample have the same number; `NOBODY` for no answer.
        tokens: generated.
        cut: whether it was cut, at max_tokens or in a loop.
        ended: whether it ended by itself.
        scores: by what the best can be chosen, by name: log-probability of the whole and per token,
            reward. Samples × candidates, higher is better; what not every candidate has is missing.
        confidence: None if not every candidate has log-probabilities.
        prompt: of each sample the tokens of its direct prompt.
    """

    correct: Bools
    group: Ints
    tokens: Ints
    cut: Bools
    ended: Bools
    scores: dict[str, Floats]
    confidence: Confidence | None
    prompt: Ints

    @property
    def drawn(self) -> int:
        """How many candidates each sample has."""
        return int(self.correct.shape[1])


def candidates_of(samples: Sequence[Sample]) -> Candidates:
    """The candidates of every sample.

    Raises:
        InvalidRequest: the samples have different numbers of candidates.
    """
    drawn = len(samples[0].candidates)
    for one in samples:
        if len(one.candidates) != drawn:
            raise InvalidRequest(
                "run",
                f"problem {one.id} of repeat {one.repeat} has {len(one.candidates)} candidates, "
                f"and problem {samples[0].id} of repeat {samples[0].repeat} has {drawn}",
            )
    every = [one.candidates for one in samples]

    def array(of: Callable[[Solution], object], kind: type) -> npt.NDArray[Any]:
        values = [[of(one) for one in row] for row in every]
        return np.array(values, kind).reshape(len(samples), drawn)

    logprobs = _logprobs(every)
    return Candidates(
        correct=array(lambda one: one.correct, bool),
        group=np.array([_groups(row) for row in every], np.int64).reshape(len(samples), drawn),
        tokens=array(lambda one: one.tokens, np.int64),
        cut=array(lambda one: one.finish_reason in CUT, bool),
        ended=array(lambda one: one.finish_reason == "stop", bool),
        scores=_scores(every, logprobs),
        confidence=confidence_of(logprobs) if logprobs else None,
        prompt=np.array([one.prompt_tokens for one in samples]),
    )


def _logprobs(every: Sequence[Sequence[Solution]]) -> list[list[Floats]] | None:
    """Of each token; None if a candidate lacks some."""
    solutions = [one for row in every for one in row]
    if any(len(one.logprobs) != one.tokens for one in solutions):
        return None
    told = any(one.logprobs for one in solutions)
    return [[np.array(one.logprobs) for one in row] for row in every] if told else None


def _scores(
    every: Sequence[Sequence[Solution]], logprobs: list[list[Floats]] | None
) -> dict[str, Floats]:
    scores = {}
    if logprobs:
        whole = [[one.sum() if len(one) else NONE for one in row] for row in logprobs]
        mean = [[one.mean() if len(one) else NONE for one in row] for row in logprobs]
        scores = {"logprob": np.array(whole), "mean logprob": np.array(mean)}
    rewards = [[one.reward for one in row] for row in every]
    if all(row and None not in row for row in rewards):
        scores["reward"] = np.array(rewards, float)
    return scores


def _groups(solutions: Sequence[Solution]) -> list[int]:
    groups = [NOBODY] * len(solutions)
    votes = group_answers([one.answer for one in solutions], [one.correct for one in solutions])
    for number, members in enumerate(votes.groups):
        for member in members:
            groups[member] = number
    return groups


def vote(group: Ints, weights: Floats | None = None) -> Ints:
    """Of each sample the first candidate of the group with the most votes; `NOBODY` without votes.

    On a tie the group that appears first wins.

    Args:
        group: samples × voters.
        weights: of each voter, above 0; one vote each by default. Voters with weight 0 do not vote.
    """
    if weights is None:
        weights = np.ones(group.shape)
    counted = np.where(group != NOBODY, weights, 0.0)
    equal = group[:, :, None] == group[:, None, :]
    # One column at a time: a group has the same sum, to the last bit, at each of its members.
    votes = sum(
        (equal[:, :, voter] * counted[:, voter, None] for voter in range(group.shape[1])),
        np.zeros(group.shape),
    )
    votes = np.where(counted > 0, votes, 0.0)
    winner = votes.argmax(axis=1)
    return np.where(votes.max(axis=1) > 0, winner, NOBODY)


def at(values: Bools, chosen: Ints) -> Floats:
    """The value of each sample's chosen candidate; 0 for `NOBODY`."""
    return np.where(chosen != NOBODY, values[np.arange(len(values)), chosen], False).astype(float)
