"""A worker: it claims shards of a store, has their samples drawn, and writes them down."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.grader import Grader
from train.generation.drawer import Ask, Drawer
from train.generation.store import Shard, Store
from train.samples import Sample


@dataclass(slots=True)
class Tally:
    """What a worker did since it started.

    Attributes:
        samples, tokens: that it drew.
        graded, correct: of the samples, those with a gold answer, and those that match it.
        failed: samples that failed for good.
        present: samples of its unfinished shards that are there.
        out_of_budget: workers that stopped because the budget does not pay for one more sample.
    """

    samples: int = 0
    tokens: int = 0
    graded: int = 0
    correct: int = 0
    failed: int = 0
    present: int = 0
    out_of_budget: int = 0

    def count(self, drawn: Sample) -> None:
        """Add one sample."""
        self.samples += 1
        self.tokens += drawn.num_tokens
        self.graded += drawn.correct is not None
        self.correct += bool(drawn.correct)
        self.failed += drawn.finish_reason == "error"

    def add(self, other: Tally) -> None:
        """Add what another worker did."""
        for one in fields(Tally):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


Report = Callable[[Tally], None]

_MOST_UNGRADED = 1000
"""Samples that wait to be graded: a crash loses them, so the source rather waits, too."""


def generate(
    store: Store,
    source: Drawer,
    grader: Grader,
    *,
    shards: Sequence[int] | None = None,
    budget: int | None = None,
    report: Report | None = None,
) -> Tally:
    """Draw what a store lacks, beside any number of other workers.

    Returns when the store is complete, the shards that others work on included: those of a worker
    that dies meanwhile are taken over. Interrupted at any point, it can be called again; what was
    written is not drawn again.

    Args:
        store: where the samples go.
        source: draws them.
        grader: compares their answers with the gold ones.
        shards: work on these only.
        budget: generated tokens that are never exceeded: no sample begins that could.
        report: called every second or so, and at the end.

    Raises:
        InvalidRequest: the budget does not pay for a single sample.
    """
    if budget is not None and budget < store.config.max_tokens:
        raise InvalidRequest(
            "budget", f"{budget} tokens are less than max_tokens {store.config.max_tokens}"
        )
    return _Worker(store, source, grader, shards, budget, report or (lambda tally: None)).run()


class _Timer:
    """Says every so many seconds that it is time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


class _Worker:
    def __init__(
        self,
        store: Store,
        source: Drawer,
        grader: Grader,
        among: Sequence[int] | None,
        budget: int | None,
        report: Report,
    ) -> None:
        self._store = store
        self._source = source
        self._grader = grader
        self._among = among
        self._budget = budget
        self._report = report
        self._tally = Tally()
        self._open: list[Shard] = []
        self._owners: dict[str, tuple[Shard, str | None]] = {}  # and gold answers, by prompt
        self._queue: deque[Ask] = deque()
        self._in_flight = 0  # submitted, not written
        # Algebra on answers takes a tenth of a second and more; the source goes on meanwhile.
        self._grader_thread = ThreadPoolExecutor(1)
        self._grading: deque[tuple[Shard | None, Future[Sample]]] = deque()
        self._renew_timer = _Timer(min(store.lease_seconds / 10, 30.0))
        self._claim_timer = _Timer(min(store.lease_seconds / 10, 0.5))
        self._report_timer = _Timer(1.0)
        self._rest_is_taken = False

    def run(self) -> Tally:
        try:
            while self._go_on():
                for drawn in self._source.finished():
                    self._take(drawn)
                self._write_graded()
                self._keep_up()
        finally:
            self._stop()
        self._report(self._tally)
        return self._tally

    def _stop(self) -> None:
        try:
            while self._grading:  # what is drawn was paid for
                self._write(*self._grading.popleft())
        finally:
            self._grader_thread.shutdown(cancel_futures=True)
            self._count_present()
            for shard in self._open:
                shard.release()
            self._store.release()  # what an interrupt caught between being claimed and open

    def _go_on(self) -> bool:
        """Submit what there is room for; False when nothing is left to wait for."""
        while True:
            while self._source.room > 0 and (ask := self._next()):
                self._in_flight += len(ask.samples)
                self._source.submit(ask)
            if self._in_flight:
                return True
            if self._store.complete(self._among):
                return False
            if self._affordable() < 1:
                self._tally.out_of_budget = 1
                return False
            time.sleep(self._claim_timer.seconds)  # others have the rest
            self._keep_up()

    def _next(self) -> Ask | None:
        while not self._queue:
            if self._rest_is_taken and not self._claim_timer.due():
                return None
            shard = self._store.claim(self._among)
            self._rest_is_taken = shard is None
            if shard is None:
                return None
            self._begin(shard)
        most = self._affordable()
        if most < 1:
            return None
        ask = self._queue.popleft()
        if len(ask.samples) > most:
            self._queue.appendleft(replace(ask, samples=ask.samples[most:]))
            ask = replace(ask, samples=ask.samples[:most])
        return ask

    def _affordable(self) -> int:
        """Samples that the budget pays for, whatever their length."""
        if self._budget is None:
            return sys.maxsize
        left = self._budget - self._tally.tokens
        return left // self._store.config.max_tokens - self._in_flight

    def _begin(self, shard: Shard) -> None:
        if not shard.num_missing:
            shard.finish()
            return
        self._open.append(shard)
        self._queue += shard.missing
        self._owners |= {ask.prompt.id: (shard, ask.prompt.answer) for ask in shard.missing}

    def _take(self, drawn: Sample) -> None:
        shard, gold = self._owners.get(drawn.id, (None, None))
        self._grading.append((shard, self._grader_thread.submit(self._grade, drawn, gold)))

    def _grade(self, drawn: Sample, gold: str | None) -> Sample:
        if gold is not None and drawn.finish_reason != "error":
            return replace(drawn, correct=self._grader.correct(drawn.answer, gold))
        return drawn

    def _write_graded(self) -> None:
        while self._grading and self._grading[0][1].done():
            self._write(*self._grading.popleft())
        nothing_else = self._in_flight == len(self._grading)
        if self._grading and (nothing_else or len(self._grading) > _MOST_UNGRADED):
            self._write(*self._grading.popleft())

    def _write(self, shard: Shard | None, graded: Future[Sample]) -> None:
        drawn = graded.result()
        self._in_flight -= 1
        self._tally.count(drawn)
        if shard is None or shard not in self._open:  # another worker has it now
            return
        shard.write(drawn)
        if not shard.num_missing:
            self._end(shard)
            shard.finish()

    def _end(self, shard: Shard) -> None:
        self._open.remove(shard)
        for ask in shard.missing:
            del self._owners[ask.prompt.id]

    def _keep_up(self) -> None:
        """The heartbeat, and the report."""
        if self._renew_timer.due():
            for shard in [one for one in self._open if not one.renew()]:
                self._end(shard)
                shard.release()
                mine = {ask.prompt.id for ask in shard.missing}
                self._queue = deque(ask for ask in self._queue if ask.prompt.id not in mine)
        if self._report_timer.due():
            self._count_present()
            self._report(self._tally)

    def _count_present(self) -> None:
        self._tally.present = sum(one.num_samples - one.num_missing for one in self._open)
