"""Ranks that are gone, frozen or failed are noticed by the others; ranks that finish are not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import torch.distributed as dist

from train.trainer.heartbeat import EVERY_SECONDS, SILENCE_SECONDS, Heartbeat


class Ranks:
    """Heartbeats of several ranks in one process, and what each of them said at its end."""

    def __init__(self, size: int, silence: float = 0.5) -> None:
        self.ended: dict[int, str] = {}
        store = dist.HashStore()
        self.hearts = [
            Heartbeat(store, rank, size, every=0.05, silence=silence, end=self._note(rank))
            for rank in range(size)
        ]

    def _note(self, rank: int) -> Callable[[str], None]:
        return lambda gone: self.ended.__setitem__(rank, gone)

    def wait_for(self, ranks: set[int]) -> dict[int, str]:
        limit = time.monotonic() + 30
        while not ranks <= self.ended.keys() and time.monotonic() < limit:
            time.sleep(0.02)
        return self.ended


def test_a_rank_that_never_beats_ends_all_others() -> None:
    ranks = Ranks(4)
    for rank in (0, 1, 3):
        ranks.hearts[rank].__enter__()
    ended = ranks.wait_for({0, 1, 3})
    assert ended.keys() == {0, 1, 3}
    assert ended[0] == "rank 2 was not heard of for 0.5 s"


def test_all_watch_the_first_rank() -> None:
    ranks = Ranks(3)
    for rank in (1, 2):
        ranks.hearts[rank].__enter__()
    assert "rank 0 was not heard of for 0.5 s" in ranks.wait_for({1, 2}).values()


def test_a_rank_that_leaves_with_an_error_ends_the_others_at_once() -> None:
    ranks = Ranks(3, silence=1000)
    for heart in ranks.hearts:
        heart.__enter__()
    ranks.hearts[1].__exit__(ValueError)
    assert ranks.wait_for({0, 2}) == dict.fromkeys((0, 2), "rank 1 ended with an error")


def test_ranks_that_beat_live_and_those_that_finish_end_nobody() -> None:
    ranks = Ranks(3, silence=1.0)
    for heart in ranks.hearts:
        heart.__enter__()
    time.sleep(2)
    for heart in ranks.hearts:
        heart.__exit__(None)
    assert ranks.ended == {}


def test_a_store_that_does_not_answer_is_a_rank_that_is_gone() -> None:
    class Silent:
        def add(self, key: str, amount: int) -> int:
            threading.Event().wait(5)
            return 0

    ended: list[str] = []
    heart = Heartbeat(Silent(), 1, 2, every=0.05, silence=0.2, end=ended.append)  # type: ignore[arg-type]
    with heart:
        limit = time.monotonic() + 30
        while not ended and time.monotonic() < limit:
            time.sleep(0.02)
    assert ended == ["the first rank did not answer for 0.2 s"]


def test_a_process_alone_watches_nobody() -> None:
    before = threading.active_count()
    with Heartbeat(dist.HashStore(), 0, 1):
        assert threading.active_count() == before


def test_the_others_end_within_a_minute() -> None:
    assert 2 * EVERY_SECONDS + SILENCE_SECONDS < 60
