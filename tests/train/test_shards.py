"""However its workers end, the store holds each sample once, and always the same one."""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsr_engine import CheckpointError, InvalidRequest
from gsr_engine.evaluation.grader import ExactGrader
from tests.helpers.drawers import CONFIG, PROMPTS, StubDrawer, contents, draw, open_store
from train.generation.drawer import DrawConfig
from train.generation.lease import Leases
from train.generation.store import Store
from train.generation.worker import generate
from train.samples import read_samples

if TYPE_CHECKING:
    from _typeshed import TraceFunction

ALL = [(prompt.id, sample) for prompt in PROMPTS for sample in range(3)]


def places(folder: Path) -> list[tuple[str, int]]:
    return [(record["id"], record["sample"]) for record in read_samples(folder)]


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """What an uninterrupted run leaves."""
    draw(tmp_path / "whole")
    return contents(tmp_path / "whole")


def test_every_sample_is_there_once_in_order_and_graded(tmp_path: Path) -> None:
    tally = draw(tmp_path)
    assert places(tmp_path) == ALL
    records = list(read_samples(tmp_path))
    gold = {prompt.id: prompt.answer for prompt in PROMPTS}
    assert all(one["correct"] == (one["answer"] == gold[one["id"]]) for one in records)
    assert tally.samples == tally.graded == len(ALL)
    assert tally.correct == sum(one["correct"] for one in records)
    assert tally.tokens == sum(one["num_tokens"] for one in records)
    assert [name for name in contents(tmp_path) if name.endswith(".jsonl")] == [
        f"{i:05}.n3.jsonl" for i in range(3)
    ]
    again = StubDrawer()
    draw(tmp_path, drawer=again)
    assert again.submitted == []


@given(lives=st.lists(st.integers(0, 12), max_size=4), torn=st.lists(st.integers(0, 300)))
@settings(deadline=None, max_examples=25)
def test_interruptions_and_torn_lines_change_nothing(lives: list[int], torn: list[int]) -> None:
    with TemporaryDirectory() as root:
        folder, whole = Path(root) / "torn", Path(root) / "whole"
        draw(whole)
        cuts = iter(torn)
        for lifetime in lives:
            with suppress(KeyboardInterrupt):
                draw(folder, drawer=StubDrawer(lifetime=lifetime))
            for part in folder.glob("*.part-*"):
                os.truncate(part, max(0, part.stat().st_size - next(cuts, 0)))
            there = places(folder)
            assert len(set(there)) == len(there)
        last = StubDrawer()
        draw(folder, drawer=last)
        assert contents(folder) == contents(whole)
        assert len(last.submitted) + len(there if lives else ()) == len(ALL)


def test_workers_side_by_side_share_the_work(tmp_path: Path, whole: dict[str, bytes]) -> None:
    drawers = [StubDrawer() for _ in range(4)]
    threads = [threading.Thread(target=draw, args=(tmp_path / "s", 3, one)) for one in drawers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path / "s") == whole
    assert sorted(one for drawer in drawers for one in drawer.submitted) == sorted(ALL)


def test_a_shard_whose_worker_is_silent_is_taken_over(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    folder = tmp_path / "s"
    store = open_store(folder, lease_seconds=0.2)
    asleep = store.claim()
    assert asleep is not None
    (folder / "00000.lease").write_text("elsewhere 1 abc")  # so it is not known to be dead
    draw(folder, lease_seconds=0.2)
    assert contents(folder) == whole
    assert not asleep.renew()
    asleep.finish()  # it wakes up, and leaves everything as it is
    assert contents(folder) == whole


def test_a_worker_that_lives_keeps_its_lease(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    lease = Leases(0.3).take(path)
    assert lease is not None
    other = Leases(0.3)
    for _ in range(8):
        assert other.take(path) is None
        time.sleep(0.1)
        assert lease.renew()
    lease.release()
    taken = other.take(path)
    assert taken is not None
    assert not lease.renew()
    lease.release()  # which is not its own any more
    assert taken.renew()


def test_a_process_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        Leases(1e9).take(tmp_path / "lease")
        os._exit(0)
    os.waitpid(pid, 0)
    assert (tmp_path / "lease").exists()
    assert Leases(1e9).take(tmp_path / "lease") is not None


def test_process_numbers_mean_nothing_on_another_host(tmp_path: Path) -> None:
    """Nor in another container of this one."""
    lease = Leases(1e9).take(tmp_path / "lease")
    assert lease is not None
    host, _, token = lease.owner.split()
    assert host.count("/") == 2  # name, boot, and where the numbers are counted
    (tmp_path / "lease").write_text(f"{host}x 999999999 {token}")
    assert Leases(1e9).take(tmp_path / "lease") is None


def test_a_shard_that_is_finished_by_another_meanwhile_is_not_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.generation.store.Shard", Mock(side_effect=FileNotFoundError))
    assert open_store(tmp_path).claim() is None
    assert not list(tmp_path.glob("*.lease"))


def test_a_claim_that_is_interrupted_anywhere_leaves_no_lease(tmp_path: Path) -> None:
    for line in itertools.count(1):
        store = open_store(tmp_path)
        try:
            with interrupt_at_line(line, of=("take", "claim", "_load")):
                assert store.claim() is not None
            break
        except KeyboardInterrupt:
            store.release()
            assert not list(tmp_path.glob("*.lease"))
    assert line > 20


@contextmanager
def interrupt_at_line(number: int, of: tuple[str, ...]) -> Iterator[None]:
    """Ctrl-C when these functions have run so many lines."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace if frame.f_code.co_name in of else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def test_a_worker_interrupted_in_a_claim_gives_the_shard_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    folder = tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr("train.generation.store.Shard", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            draw(folder)
    assert not list(folder.glob("*.lease"))
    draw(folder)
    assert contents(folder) == whole


def test_of_two_who_finish_a_shard_the_first_wins(tmp_path: Path) -> None:
    """One sleeps with a full shard while its lease is stolen; draws differ, as on another GPU."""
    asleep = open_store(tmp_path).claim()
    assert asleep is not None
    slow = StubDrawer(voice="slow ")
    for ask in asleep.missing:
        slow.submit(ask)
    while drawn := slow.finished():
        for one in drawn:
            asleep.write(one)
    lease, taken = tmp_path / "00000.lease", tmp_path / "taken"
    lease.rename(taken)
    draw(tmp_path, drawer=StubDrawer(voice="quick "))
    done = contents(tmp_path)
    taken.rename(lease)  # it even believes that it has the shard
    asleep.finish()
    del done["taken"]
    assert contents(tmp_path) == done
    assert places(tmp_path) == ALL


def test_more_samples_leave_the_first_as_they_are(tmp_path: Path) -> None:
    draw(tmp_path / "grown", n=2)
    first = list(read_samples(tmp_path / "grown"))
    drawer = StubDrawer()
    draw(tmp_path / "grown", n=4, drawer=drawer)
    assert {sample for _, sample in drawer.submitted} == {2, 3}
    draw(tmp_path / "at once", n=4)
    assert contents(tmp_path / "grown") == contents(tmp_path / "at once")
    assert [one for one in read_samples(tmp_path / "grown") if one["sample"] < 2] == first
    fewer = StubDrawer()
    draw(tmp_path / "grown", n=1, drawer=fewer)
    assert fewer.submitted == []


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"temperature": 0.5}, {"max_tokens": 9}, {"seed": 4}]
)
def test_other_settings_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    open_store(tmp_path)
    values = {"model": "stub", "max_tokens": 8, "seed": 3, **change}
    with pytest.raises(CheckpointError, match=next(iter(change))):
        open_store(tmp_path, config=DrawConfig(**values))  # type: ignore[arg-type]


def test_other_prompts_are_refused(tmp_path: Path) -> None:
    open_store(tmp_path)
    with pytest.raises(CheckpointError, match="prompts=7 not 6"):
        Store(tmp_path, CONFIG, PROMPTS[:6], 3, shard_size=3)
    with pytest.raises(CheckpointError, match="keys="):
        Store(tmp_path, CONFIG, PROMPTS[::-1], 3, shard_size=3)
    with pytest.raises(InvalidRequest, match="two prompts have the id 'p0'"):
        Store(tmp_path / "new", CONFIG, [PROMPTS[0]] * 2, 3)
    with pytest.raises(InvalidRequest, match="n: must be at least 1"):
        open_store(tmp_path, n=0)


def test_failed_samples_are_drawn_again_only_on_demand(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    folder, failing = tmp_path / "s", [("p1", 0), ("p5", 2)]
    tally = draw(folder, drawer=StubDrawer(failing=failing))
    assert tally.failed == 2
    failed = [one for one in read_samples(folder) if one["finish_reason"] == "error"]
    assert [(one["id"], one["sample"], one["error"]) for one in failed] == [
        ("p1", 0, "too bad"),
        ("p5", 2, "too bad"),
    ]
    assert failed[0]["correct"] is None
    patient = StubDrawer()
    draw(folder, drawer=patient)
    assert patient.submitted == []
    again = StubDrawer()
    open_store(folder).reopen_failed()
    assert sorted(places(folder)) == sorted(ALL)
    draw(folder, drawer=again, retry_failed=True)
    assert again.submitted == failing
    assert contents(folder) == whole


def test_a_budget_is_never_exceeded_and_goes_on_later(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    folder, runs = tmp_path / "s", 0
    while True:
        runs += 1
        drawer = StubDrawer()
        tally = generate(open_store(folder), drawer, ExactGrader(), budget=20)
        assert tally.tokens <= 20
        assert drawer.most_in_flight <= 2
        if not tally.out_of_budget:
            break
        assert tally.tokens > 12  # it was used as far as it is certain to do
    with pytest.raises(InvalidRequest, match="budget: 7 tokens are less than max_tokens 8"):
        generate(open_store(folder), StubDrawer(), ExactGrader(), budget=7)
    assert runs > 2
    assert contents(folder) == whole


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    draw(tmp_path)
    file = tmp_path / "00001.n3.jsonl"
    first, rest = file.read_text().split("\n", 1)
    file.write_text(f"{first}\nnonsense\n{rest}")
    with pytest.raises(InvalidRequest, match=r"00001\.n3\.jsonl line 2: "):
        list(read_samples(tmp_path))
    with pytest.raises(InvalidRequest, match="none that train"):
        list(read_samples(tmp_path / "nowhere"))


def test_a_sample_depends_on_neither_sharding_nor_company(tmp_path: Path) -> None:
    generate(Store(tmp_path / "a", CONFIG, PROMPTS, 3), StubDrawer(), ExactGrader())
    alone = Store(tmp_path / "b", CONFIG, PROMPTS[4:5], 3, shard_size=1)
    generate(alone, StubDrawer(), ExactGrader())
    of_all = [one for one in read_samples(tmp_path / "a") if one["id"] == "p4"]
    assert json.dumps(of_all) == json.dumps(list(read_samples(tmp_path / "b")))
