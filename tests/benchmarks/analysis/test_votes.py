"""Votes, choices and their means over subsets, against plain enumeration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.analysis import selections
from benchmarks.analysis.candidates import NOBODY, at, candidates_of, vote
from benchmarks.analysis.subsets import mean_best, mean_longest, mean_majority, mean_oracle
from benchmarks.samples.sample import Solution
from gsr_engine import InvalidRequest
from gsr_engine.text.answers import majority
from tests.benchmarks.analysis.made import answered, answers, candidates, rows
from tests.helpers.runs import sample, solution


def plain_majority(row: Sequence[Solution]) -> bool:
    winner = majority([one.answer for one in row], [one.correct for one in row])
    return winner is not None and row[winner].correct


@given(rows(), st.data())
def test_majority_of_the_first_k_is_that_of_the_engine(
    every: list[list[Solution]], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(every[0])))
    found = selections.majority_at(candidates(every), k)
    assert found.hits.tolist() == [plain_majority(row[:k]) for row in every]
    silent = [all(one.answer is None for one in row[:k]) for row in every]
    assert found.cost.unanswered.tolist() == silent


@given(rows(most=5))
def test_means_over_subsets_are_those_of_enumeration(every: list[list[Solution]]) -> None:
    found, n = candidates(every), len(every[0])
    majorities = mean_majority(found)
    for k in range(1, n + 1):
        for index, row in enumerate(every):
            assert majorities[index, k - 1] == pytest.approx(
                np.mean([plain_majority(chosen) for chosen in permutations(row, k)])
            )
            any_right = np.mean([any(c.correct for c in some) for some in combinations(row, k)])
            assert mean_oracle(found, k)[index] == pytest.approx(any_right)
            longest = np.mean([max(c.tokens for c in some) for some in combinations(row, k)])
            assert mean_longest(found, k)[index] == pytest.approx(longest)
            best = [
                max(some, key=lambda one: round(one.logprob, 9)).correct
                for some in combinations(row, k)
            ]
            scores = np.round(found.scores["logprob"], 9)
            assert mean_best(found, scores, k)[index] == pytest.approx(np.mean(best))


@pytest.mark.parametrize(("n", "right", "k"), [(200, 1, 100), (1000, 3, 999), (64, 64, 1)])
def test_the_oracle_is_exact_where_floats_would_overflow(n: int, right: int, k: int) -> None:
    row = [solution("7")] * right + [solution("1")] * (n - right)
    miss = 1.0
    for one in range(right):  # the right ones are left out one after the other
        miss *= max(0, n - k - one) / (n - one)
    assert mean_oracle(candidates([row]), k)[0] == pytest.approx(1 - miss)


@given(st.lists(answers, min_size=2, max_size=6), st.data())
def test_a_majority_without_a_tie_does_not_depend_on_the_order(
    row: list[str | None], data: st.DataObject
) -> None:
    counts = sorted((row.count(one) for one in set(row) - {None}), reverse=True)
    assume(counts[:1] != counts[1:2])
    turned = data.draw(st.permutations(row))
    hits = [selections.majority_at(answered(one), len(row)).hits[0] for one in (row, turned)]
    assert hits[0] == hits[1] == mean_majority(answered(row))[0, -1]


def test_a_tie_goes_to_the_earlier_and_counts_half_in_the_mean() -> None:
    assert selections.majority_at(answered(["7", "1"]), 2).hits[0] == 1
    assert selections.majority_at(answered(["1", "7"]), 2).hits[0] == 0
    assert mean_majority(answered(["1", "7"]))[0, 1] == 0.5
    assert mean_majority(answered(["1", "7", "2"]))[0, 2] == pytest.approx(1 / 3)


def test_equal_answers_vote_together_and_silent_ones_do_not() -> None:
    found = answered([None, "3", "2/4", "0.5", "1/2"])
    assert found.group[0].tolist() == [NOBODY, 0, 1, 1, 1]
    assert vote(found.group).tolist() == [2]
    assert vote(answered([None, None]).group).tolist() == [NOBODY]
    assert at(found.correct, np.array([NOBODY])).tolist() == [0]


@given(rows())
def test_whole_weights_are_votes_counted_as_often(every: list[list[Solution]]) -> None:
    found = candidates(every)
    weights = found.tokens % 4
    for index, row in enumerate(found.group):
        repeated = np.repeat(row, weights[index])
        winner = vote(found.group, weights.astype(float))[index]
        plain = vote(repeated[None, :])[0] if len(repeated) else NOBODY
        expected = NOBODY if plain == NOBODY else repeated[plain]
        assert (NOBODY if winner == NOBODY else row[winner]) == expected


def test_best_of_k_by_hand() -> None:
    row = [
        solution("1", tokens=1, logprobs=[-2.0]),
        solution("7", tokens=4, logprobs=[-1.0] * 4),
        solution(None, tokens=2, logprobs=[-0.5, -0.5], finish_reason="length"),
        solution("7", tokens=0, logprobs=[], error="failed", finish_reason="error"),
    ]
    found = candidates([row])
    best = {one.name: one for one in selections.choices(found, 4)}
    assert best["best-of-4 (logprob)"].hits[0] == 0  # the whole: the third, without an answer
    assert best["best-of-4 (logprob)"].cost.unanswered[0] == 1
    assert best["best-of-4 (logprob)"].cost.cut[0] == 1
    assert selections.best_of(found, 2, "x", found.scores["logprob"]).hits[0] == 0
    assert selections.best_of(found, 2, "x", found.scores["mean logprob"]).hits[0] == 1
    assert "best-of-4 (reward)" not in best
    for one, reward in zip(row, [0.1, 0.2, 0.9, 0.9], strict=True):
        one.reward = reward
    found = candidates([row])
    (chosen,) = (o for o in selections.choices(found, 4) if o.name == "best-of-4 (reward)")
    assert chosen.cost.unanswered[0] == 1  # of equal rewards the earlier one
    assert selections.best_of(found, 2, "reward", found.scores["reward"]).hits[0] == 1


def test_without_log_probabilities_nothing_is_chosen_by_them() -> None:
    found = candidates([[solution("7", logprobs=[])] * 4])
    names = [one.name for one in (*selections.choices(found, 4), *selections.early_stops(found, 4))]
    assert names == ["maj@4", "pass@4 (oracle)", "first-finish 1@4", "first-finish 2@4"]


def test_samples_with_other_numbers_of_candidates_are_refused_by_name() -> None:
    uneven = [sample("a", ["7", "1"], {}), sample("b", ["7"], {}, repeat=3)]
    with pytest.raises(InvalidRequest, match="problem b of repeat 3 has 1 candidates"):
        candidates_of(uneven)
