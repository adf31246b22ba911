"""The cost model of shared spans: what it is measured on, and what it chooses."""

from __future__ import annotations

import numpy as np
import pytest

from gsr_engine.attention.sharing import Sharing, SharingCosts, timed_lists


def chosen(costs: SharingCosts | None, readers: int, pieces: int = 1000) -> bool:
    """Whether rows with 7 heads for each kv head read a span together."""
    sharing = Sharing(costs, num_heads=28, num_kv_heads=4)
    return bool(sharing.choose(np.array([readers]), np.array([pieces]), 0)[0])


def test_constants_are_ratios_of_times() -> None:
    """Nine rows: 90 µs apart over distinct pages, 26 over the same ones, 15 together."""
    costs = SharingCosts.of(132, 64, rows=9, apart=90.0, again=26.0, wide=15.0)
    assert costs == SharingCosts(132, wide=1.5, lanes=64, again=pytest.approx(0.2))


@pytest.mark.parametrize("again", [5.0, 90.0, 99.0])
def test_reading_again_costs_from_nothing_to_as_much_as_the_first_time(again: float) -> None:
    costs = SharingCosts.of(132, 64, rows=9, apart=90.0, again=again, wide=15.0)
    assert costs.again == {5.0: 0.0, 90.0: 1.0, 99.0: 1.0}[again]
    assert SharingCosts.of(132, 64, 1, 90.0, again, 80.0) == SharingCosts(132, 1.0, 64, 1.0)


def test_together_where_it_is_faster_than_apart() -> None:
    """Up to two rows are a narrow tile, more are a wide one, and more than nine are two of them."""
    costs = SharingCosts(132, wide=1.5, lanes=64, again=0.2)
    assert [n for n in range(1, 13) if chosen(costs, n)] == [2, 4, 5, 6, 7, 8, 9, 12]
    assert not chosen(costs, 9, pieces=3)  # the GPU runs all of them at once
    assert not chosen(None, 9)


def test_what_is_timed_fills_the_gpu_alike() -> None:
    apart, again, wide = timed_lists(rows=3, groups=4, num_pages=500)
    assert len(apart) == len(again) == len(wide) == 12
    pages = [{page for _, span in reads for page in span.pages} for reads in (apart, again, wide)]
    assert [len(each) for each in pages] == [192, 64, 192]
    for reads in (apart, again):
        assert [list(rows) for rows, _ in reads] == [[row] for row in range(12)]
    assert all(again[row][1] == again[row // 3 * 3][1] for row in range(12))
    assert [list(rows) for rows, _ in wide[:2]] == [[0, 1, 2], [3, 4, 5]]
