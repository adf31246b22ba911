"""Intervals cover, are paired and clustered; tests are exact."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.analysis.comparisons import differences, refinement_gaps
from benchmarks.analysis.intervals import Interval, Resampling, mcnemar, normal_end
from tests.benchmarks.analysis.made import outcome


def width(interval: Interval) -> float:
    return interval.high - interval.low


def test_the_interval_of_a_share_is_that_of_theory() -> None:
    hits = (np.random.default_rng(0).random(2000) < 0.8).astype(float)
    interval = Resampling(range(2000)).mean(hits)
    assert interval.low < 0.8 < interval.high
    assert width(interval) == pytest.approx(2 * 1.96 * (0.16 / 2000) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("problems", "t"), [(6, 2.571), (10, 2.262), (30, 2.045), (500, 1.965), (1, 1.960)]
)
def test_few_problems_end_as_students_t_does(problems: int, t: float) -> None:
    narrow = ((problems - 1) / problems) ** 0.5 if problems > 1 else 1.0
    assert normal_end(problems) * narrow == pytest.approx(t, abs=0.004)


def test_the_interval_of_few_problems_is_as_wide_as_that_of_students_t() -> None:
    values = np.random.default_rng(3).random(10)
    expected = 2 * 2.262 * values.std(ddof=1) / 10**0.5
    assert width(Resampling(range(10)).mean(values)) == pytest.approx(expected, rel=0.05)
    mask = np.arange(40) < 10  # problems that do not count make it no narrower
    (some,) = Resampling(range(40)).ratios([(np.resize(values, 40) * mask, mask.astype(float))])
    assert some is not None
    assert width(some) == pytest.approx(expected, rel=0.1)


@given(st.floats(-1, 1), st.integers(1, 5), st.integers(1, 4))
def test_a_constant_has_no_width(value: float, problems: int, repeats: int) -> None:
    resampling = Resampling([*range(problems)] * repeats, resamples=50)
    interval = resampling.mean(np.full(problems * repeats, value))
    assert (interval.mean, interval.low, interval.high) == pytest.approx((value,) * 3)


def test_repeats_that_are_copies_say_nothing_new() -> None:
    hits = (np.random.default_rng(1).random(300) < 0.5).astype(float)
    once = Resampling(range(300)).mean(hits)
    copied = np.tile(hits, 4)
    clustered = Resampling([*range(300)] * 4).mean(copied)
    naive = Resampling(range(1200)).mean(copied)
    assert clustered == once
    assert width(naive) == pytest.approx(width(once) / 2, rel=0.1)


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(2)
    better = (rng.random(500) < 0.8).astype(float)
    worse = better * (rng.random(500) < 0.95)
    resampling = Resampling(range(500))
    (one,) = differences([(outcome("a", better), outcome("b", worse))], resampling)
    assert one.interval.low > 0
    assert width(one.interval) < width(resampling.mean(better)) / 2
    assert (one.better, one.worse) == (int((better > worse).sum()), 0)
    assert one.p_value == mcnemar(int((better > worse).sum()), 0)


def test_means_over_choices_are_not_tested_as_if_they_were_right_or_wrong() -> None:
    pair = outcome("a", [1, 0]), outcome("mean", [0.5, 0.25])
    (one,) = differences([pair], Resampling(range(2), resamples=50))
    assert (one.better, one.worse, one.p_value) == (None, None, None)
    assert one.interval.mean == pytest.approx(0.125)


def test_a_ratio_is_of_sums_and_none_without_any() -> None:
    resampling = Resampling(range(4), resamples=1000)
    values, mask = np.array([1.0, 0, 1, 1]), np.array([1.0, 1, 0, 0])
    some, none = resampling.ratios([(values * mask, mask), (values, np.zeros(4))])
    assert none is None
    assert some is not None
    assert (some.mean, some.low, some.high) == (0.5, 0.0, 1.0)


def test_the_gap_is_relative_to_the_majority() -> None:
    resampling = Resampling(range(4), resamples=1000)
    pairs = [
        (outcome("a", [1, 1, 1, 0]), outcome("maj", [1, 1, 0, 0])),
        (outcome("a", [1, 0, 0, 0]), outcome("maj", [0, 0, 0, 0])),
    ]
    some, none = refinement_gaps(pairs, resampling)
    assert some.interval is not None
    assert some.interval.mean == pytest.approx(0.5)
    assert none.interval is None


def enumerated(better: int, worse: int) -> float:
    """Over all outcomes of fair coins: as far from the middle as these, or farther."""
    pairs = better + worse
    sums = [sum(coins) for coins in product((0, 1), repeat=pairs)]
    away = abs(2 * better - pairs)
    return sum(abs(2 * heads - pairs) >= away for heads in sums) / len(sums)


@given(st.integers(0, 6), st.integers(0, 6))
def test_mcnemar_is_enumeration(better: int, worse: int) -> None:
    assert mcnemar(better, worse) == pytest.approx(enumerated(better, worse))
    assert mcnemar(better, worse) == mcnemar(worse, better)


def test_mcnemar_of_many_pairs_is_finite() -> None:
    assert mcnemar(3000, 3000) == 1.0
    assert 0 <= mcnemar(4000, 10) < 1e-300
    assert mcnemar(540, 460) == pytest.approx(0.0124, abs=3e-4)  # chi-squared: 0.0114


def test_a_problem_counts_once_in_the_test_whatever_its_repeats() -> None:
    one, other = outcome("a", [1, 1, 0, 1]), outcome("b", [0, 1, 1, 0])
    (found,) = differences([(one, other)], Resampling(["p", "q", "q", "p"], resamples=50))
    assert (found.better, found.worse) == (1, 1)
