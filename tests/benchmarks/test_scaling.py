"""The scaling report on tiny shapes has all its numbers; their size is not tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.random_weights import random_engine
from benchmarks.scaling.__main__ import main
from benchmarks.scaling.growth import SweepPoint, measure_growth
from benchmarks.scaling.host import measure_host
from benchmarks.scaling.queue import measure_fairness, measure_queue
from gsr_engine import InvalidRequest

pytestmark = pytest.mark.slow


def test_the_report_has_its_numbers(tmp_path: Path) -> None:
    main(
        queue="10,20",
        queue_steps=5,
        priorities="1",
        shape="tiny",
        streams=4,
        host_steps=2,
        growth_shape="tiny",
        k="1,2",
        problem="8",
        candidate="4",
        problems="1",
        refinement=2,
        rounds=1,
        out=tmp_path,
    )
    report = (tmp_path / "report.txt").read_text()
    for text in ("bytes / request", "later arrivals", "host below 5% of the step", "k candidates"):
        assert text in report
    assert "nan" not in report
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_queue_is_measured_at_its_length() -> None:
    costs = measure_queue([10, 30], steps=30, streams=8, k=2)
    assert [(cost.waiting, cost.deadlines) for cost in costs] == [
        (10, False),
        (30, False),
        (10, True),
        (30, True),
    ]
    assert all(cost.step_us > 0 and cost.request_bytes > 100 for cost in costs)


@pytest.mark.parametrize("priority", [1, 3])
def test_nobody_waits_for_ever(priority: int) -> None:
    row = measure_fairness(priority, streams=4, tokens=4)
    assert 64 * (priority - 1) < row.arrivals <= row.bound  # overtaken, but no more than it may be


def test_the_parts_of_a_step_add_up() -> None:
    share = measure_host("tiny", streams=8, steps=3)
    assert share.streams == 8
    assert sum(share.parts.values()) == pytest.approx(share.step_ms)
    assert 0 < share.host_ms < share.step_ms


def test_the_work_is_fixed_and_branched_computes_less() -> None:
    base, sweeps = SweepPoint(k=2, problem=8, candidate=8, problems=1), {"k": [2, 4]}
    first, again = (list(measure_growth("tiny", base, sweeps, refinement=4)) for _ in range(2))
    assert [cost.tokens for cost in first] == [cost.tokens for cost in again]
    two, four = first
    assert two.tokens["linear"] < four.tokens["linear"]
    assert four.tokens["branched"] < four.tokens["linear"]


def test_unknown_shapes_and_bad_numbers_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="shape"):
        random_engine("70b")
    with pytest.raises(InvalidRequest, match="queue"):
        main(queue="ten", out=tmp_path)
