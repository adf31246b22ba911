"""The scaling report on tiny shapes has all its numbers; their size is not tested."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from benchmarks.random_weights import random_engine
from benchmarks.scaling.__main__ import main
from benchmarks.scaling.front import measure_front
from benchmarks.scaling.host import measure_host
from benchmarks.scaling.memory import Ask, serve, serve_async
from benchmarks.scaling.memory import main as show_memory
from benchmarks.scaling.queue import measure_fairness, measure_queue
from benchmarks.stub_runner import stub_engine
from gsr_engine import AsyncEngine, InvalidRequest

pytestmark = pytest.mark.slow


def test_the_report_has_its_numbers(tmp_path: Path) -> None:
    main(
        only="queue,front,fairness,host,ragged",
        queue="0,20",
        queue_steps=5,
        priorities="1",
        shape="tiny",
        streams=4,
        host_steps=2,
        ragged="3",
        out=tmp_path,
    )
    report = (tmp_path / "report.txt").read_text()
    for text in (
        "bytes / request",
        "waiting clients",
        "later arrivals",
        "host below 5% of the step",
        "steps with a change",
    ):
        assert text in report
    assert "nan" not in report
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_queue_is_measured_at_its_length() -> None:
    costs = measure_queue([0, 30], steps=30, streams=8, k=2)
    assert [(cost.waiting, cost.deadlines) for cost in costs] == [
        (0, False),
        (30, False),
        (0, True),
        (30, True),
    ]
    assert all(cost.step_us > 0 and cost.request_bytes > 100 for cost in costs)


def test_the_front_is_measured_with_as_many_waiting_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting: list[int] = []
    stats = AsyncEngine.stats

    async def noted(self: AsyncEngine) -> dict[str, Any]:
        found = await stats(self)
        waiting.append(len(self.loop.waiting))
        return found

    monkeypatch.setattr(AsyncEngine, "stats", noted)
    costs = measure_front([0, 40], turns=20, room=4)
    assert [cost.waiting for cost in costs] == [0, 40]
    assert all(0 < cost.step_us < cost.turn_us <= cost.slowest_us for cost in costs)
    few, many = waiting
    assert few == 0
    assert 40 // 2 <= many <= 40  # some that finished may not have asked again yet


def test_only_the_chosen_studies_are_run(tmp_path: Path) -> None:
    main(only="fairness", priorities="1", queue="0", out=tmp_path)
    assert "later arrivals" in (tmp_path / "report.txt").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report.txt"]
    with pytest.raises(InvalidRequest, match="only: must be some of queue"):
        main(only="speed", out=tmp_path)


def test_what_a_load_keeps_is_counted() -> None:
    engine = stub_engine(length=8, num_pages=1024, max_num_seqs=64)
    found = list(serve(engine, requests=90, every=30))
    assert [one.requests for one in found] == [30, 60, 90]
    stats = engine.stats()
    assert (stats["requests_finished"], stats["requests_running"], stats["pages_used"]) == (
        90,
        0,
        0,
    )
    assert found[-1].salts == stats["prefix_cache"]["salts"] > 30
    assert found[-1].pages == stats["pages_cached"] > 30
    assert all(one.resident_mib > 10 and one.objects > 1000 for one in found)
    # Finished requests are forgotten, except those whose deadline is still watched.
    assert found[-1].kept <= found[-1].deadlines <= 9


def test_a_load_has_every_kind_of_request() -> None:
    load = [Ask(index) for index in range(1200)]
    aborted = [ask for ask in load if ask.patience is not None]
    assert len(aborted) == 400
    assert {ask.patience for ask in aborted} == {0, 1, 2, 3}
    refining = [ask.refining.candidate_timeout for ask in load if ask.refines]
    assert (len(refining), set(refining)) == (120, {1e-3, 1e6})
    assert any(ask.refines for ask in aborted)
    assert len({tuple(ask.prompt) for ask in load}) == len({ask.problem for ask in load}) == 1200
    assert len({ask.sampling.cache_salt for ask in load}) == 1200


def test_the_same_load_passes_through_the_asyncio_front() -> None:
    engine = stub_engine(length=8, num_pages=1024, max_num_seqs=64)
    found = asyncio.run(serve_async(engine, requests=60, every=30))
    assert [one.requests for one in found] == [30, 60]
    assert engine.stats()["requests_finished"] == 60
    assert found[-1].salts > 20


def test_the_memory_study_prints_its_figures_and_what_grew(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_memory(requests=40, async_requests=20, looks=2, pages=1024, trace=True)
    printed = capsys.readouterr().out
    for text in ("Engine", "resident MiB", "│       40 │", "│       20 │", "size="):
        assert text in printed


@pytest.mark.parametrize("priority", [1, 3])
def test_nobody_waits_for_ever(priority: int) -> None:
    row = measure_fairness(priority, streams=4, tokens=4)
    assert 64 * (priority - 1) < row.arrivals <= row.bound  # overtaken, but no more than it may be


def test_the_parts_of_a_step_add_up() -> None:
    share = measure_host("tiny", streams=8, steps=3)
    assert share.streams == 8
    assert sum(share.parts.values()) == pytest.approx(share.step_ms)
    assert 0 < share.host_ms < share.step_ms


def test_unknown_shapes_and_bad_numbers_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="shape"):
        random_engine("70b")
    with pytest.raises(InvalidRequest, match="queue"):
        main(queue="ten", out=tmp_path)
