"""First-Finish Search and the confidence stop, against simulations token by token."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.analysis import selections
from benchmarks.analysis.candidates import NOBODY
from benchmarks.analysis.confidence import LONGEST_WINDOW, confidence_of, stop_candidates
from benchmarks.analysis.first_finish import first_finish
from benchmarks.samples.sample import Solution
from gsr_engine.text.answers import majority
from tests.benchmarks.analysis.made import candidates, rows
from tests.helpers.runs import solution


def simulated_search(row: list[Solution], j: int) -> tuple[list[int], int, int]:
    """Who ended in which order, steps, and tokens: all generate a token per step."""
    ended: list[int] = []
    steps = tokens = 0
    running = set(range(len(row)))
    while running and len(ended) < j:
        steps += 1
        tokens += len(running)
        for index in sorted(running):
            if row[index].tokens == steps:
                running.remove(index)
                if row[index].finish_reason == "stop":
                    ended.append(index)
    return ended[:j], steps, tokens


@given(rows(), st.data())
def test_first_finish_is_what_a_simulation_does(
    every: list[list[Solution]], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(every[0])))
    j = data.draw(st.integers(1, k))
    found = first_finish(candidates(every), j, k)
    for index, row in enumerate(every):
        ended, steps, tokens = simulated_search(row[:k], j)
        voters = [row[one] for one in ended]
        winner = majority([one.answer for one in voters], [one.correct for one in voters])
        expected = NOBODY if winner is None else ended[winner]
        assert (found.winner[index], found.steps[index], found.tokens[index]) == (
            expected,
            steps,
            tokens,
        )


def lowest(logprobs: list[float], window: int) -> float:
    """The least confident group of a solution, by its definition."""
    size = min(window, len(logprobs))
    groups = [logprobs[end - size : end] for end in range(size, len(logprobs) + 1)]
    return min(sum(group) / size for group in groups)


def simulated_stop(
    row: list[Solution], warm_up: int, keep: float, window: int
) -> tuple[list[int], list[bool]]:
    first = [lowest(one.logprobs, window) for one in row[:warm_up]]
    threshold = float(np.quantile(first, 1 - keep))
    tokens, kept = [], []
    for index, one in enumerate(row):
        length = one.tokens
        if index >= warm_up:
            for step in range(window, one.tokens + 1):  # a token is drawn, then the window is seen
                if sum(one.logprobs[step - window : step]) / window < threshold - 1e-8:
                    length = step
                    break
        tokens.append(length)
        kept.append(lowest(one.logprobs, window) >= threshold - 1e-8)
    return tokens, kept


@given(rows(least=2), st.data())
def test_the_confidence_stop_is_what_a_simulation_does(
    every: list[list[Solution]], data: st.DataObject
) -> None:
    warm_up = data.draw(st.integers(1, len(every[0])))
    keep = data.draw(st.sampled_from([0.1, 0.5, 0.9]))
    found = candidates(every)
    assert found.confidence is not None
    stopped = stop_candidates(found.confidence, found.tokens, warm_up, keep)
    for index, row in enumerate(every):
        tokens, kept = simulated_stop(row, warm_up, keep, found.confidence.window)
        assert stopped.tokens[index].tolist() == tokens
        assert stopped.kept[index].tolist() == kept
        weights = [exp(lowest(one.logprobs, found.confidence.window)) for one in row]
        assert found.confidence.weights[index] == pytest.approx(weights)


def test_a_group_is_a_quarter_of_the_median_candidate() -> None:
    def window(*lengths: int) -> int:
        return confidence_of([[np.full(length, -1.0) for length in lengths]]).window

    assert window(1, 2) == 1
    assert window(40, 80, 4000) == 20
    assert window(40_000) == LONGEST_WINDOW
    assert confidence_of([[np.zeros(0)]]).weights.tolist() == [[0.0]]


def test_saved_tokens_accuracy_and_latency_by_hand() -> None:
    sure, doubtful = [-0.1] * 8, [-0.1] * 4 + [-3.0] * 4
    row = [
        solution("1", tokens=8, logprobs=sure),
        solution("7", tokens=8, logprobs=sure),
        solution("1", tokens=8, logprobs=doubtful),
        solution("7", tokens=8, logprobs=sure),
    ]
    stops = {one.name: one for one in selections.early_stops(candidates([row]), 4)}
    stop = stops["stop@4 (keeps 90%)"]
    assert stop.cost.generated[0] == 8 + 8 + 5 + 8  # stopped after the first doubtful token
    assert stop.cost.sequential[0] == 8 + 8
    assert stop.saved == pytest.approx(3 / 32)
    assert stop.hits[0] == 1  # two sure votes against one
    row[0].finish_reason = row[2].finish_reason = "length"
    (stop,) = (s for s in selections.early_stops(candidates([row]), 4) if s.name == stop.name)
    assert stop.cost.cut[0] == pytest.approx(1 / 3)  # the one that was stopped has no vote
    assert selections.majority_at(candidates([row]), 4).hits[0] == 0  # a tie, the first is wrong


def test_the_shortest_that_ended_wins() -> None:
    row = [
        solution("1", tokens=9, logprobs=[-1.0] * 9),
        solution("1", tokens=2, logprobs=[-1.0] * 2, finish_reason="length"),
        solution("7", tokens=5, logprobs=[-1.0] * 5),
        solution("1", tokens=7, logprobs=[-1.0] * 7),
    ]
    first = selections.first_finish_at(candidates([row]), 1, 4)
    assert (first.hits[0], first.cost.sequential[0]) == (1, 5)
    assert first.cost.generated[0] == 5 + 2 + 5 + 5
    assert first.saved == pytest.approx(1 - 17 / 23)
