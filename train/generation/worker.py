"""The loop of a worker: it claims shards of a store, has their samples drawn, and writes them."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.grader import Grader
from gsr_engine.outputs import CUT
from train.generation.drawer import Ask, Drawer
from train.generation.store import Shard, Store
from train.samples import Sample


@dataclass(slots=True)
class Tally:
    """Counts of a worker since it started.

    Attributes:
        samples, tokens: drawn.
        graded, correct: samples with a gold answer, and samples that match it.
        failed: samples that failed for good.
        cut: samples that reached the longest length or ran in a loop.
        unanswered: samples without an answer, failed ones not counted.
        present: samples that its unfinished shards have.
        running: tokens so far of samples that are not finished.
        out_of_budget: workers that stopped because the budget does not pay for one more sample.
    """

    samples: int = 0
    tokens: int = 0
    graded: int = 0
    correct: int = 0
    failed: int = 0
    cut: int = 0
    unanswered: int = 0
    present: int = 0
    running: int = 0
    out_of_budget: int = 0

    def count(self, sample: Sample) -> None:
        """Add one sample."""
        failed = sample.finish_reason == "error"
        self.samples += 1
        self.tokens += sample.num_tokens
        self.graded += sample.correct is not None
        self.correct += bool(sample.correct)
        self.failed += failed
        self.cut += sample.finish_reason in CUT
        self.unanswered += sample.answer is None and not failed

    def add(self, other: Tally) -> None:
        """Add the counts of another worker."""
        for one in fields(Tally):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


Report = Callable[[Tally], None]

_MOST_UNGRADED = 1000
"""Samples that may wait to be graded. They are lost in a crash, so no more are drawn meanwhile."""


def generate(
    store: Store,
    drawer: Drawer,
    grader: Grader,
    *,
    shards: Sequence[int] | None = None,
    budget: int | None = None,
    report: Report | None = None,
) -> Tally:
    """Draw what a store lacks, beside any number of other workers.

    It returns when the store is complete, the shards of other workers included: those of a worker
    that dies are taken over. It can be interrupted at any point and called again; a sample that was
    written is not drawn again.

    Args:
        store: where the samples go.
        drawer: draws them.
        grader: compares their answers with the gold ones.
        shards: work on these only.
        budget: generated tokens that are never exceeded: a sample begins only if it fits.
        report: called every second or so, and at the end.

    Raises:
        InvalidRequest: the budget does not pay for a single sample.
    """
    if budget is not None and budget < store.config.max_tokens:
        raise InvalidRequest(
            "budget", f"{budget} tokens are less than max_tokens {store.config.max_tokens}"
        )
    report = report or (lambda tally: None)
    return _ShardLoop(store, drawer, grader, shards, budget, report).run()


class _Timer:
    """Is due every `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


class _GradingQueue:
    """Samples that are graded in a thread, in their order.

    Algebra on answers takes a tenth of a second and more; the drawer goes on meanwhile.
    """

    def __init__(self, grader: Grader) -> None:
        self._grader = grader
        self._thread = ThreadPoolExecutor(1)
        self._queue: deque[Future[Sample]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, sample: Sample, gold: str | None) -> None:
        """Begin to grade a sample; without a gold answer it stays as it is."""
        self._queue.append(self._thread.submit(self._grade, sample, gold))

    def _grade(self, sample: Sample, gold: str | None) -> Sample:
        if gold is None or sample.finish_reason == "error":
            return sample
        return replace(sample, correct=self._grader.correct(sample.answer, gold))

    def has_graded(self) -> bool:
        """Whether `pop` would not wait."""
        return bool(self._queue) and self._queue[0].done()

    def pop(self) -> Sample:
        """The first sample, once it is graded."""
        return self._queue.popleft().result()

    def close(self) -> None:
        """End the thread; samples that wait are lost."""
        self._thread.shutdown(cancel_futures=True)


class _ShardLoop:
    """One call of `generate`.

    A sample that is wanted is in one of four places: in `_queue`, with the drawer (`_num_drawing`
    counts these), in `_grading`, or in its shard.
    """

    def __init__(
        self,
        store: Store,
        drawer: Drawer,
        grader: Grader,
        among: Sequence[int] | None,
        budget: int | None,
        report: Report,
    ) -> None:
        self._store = store
        self._drawer = drawer
        self._among = among
        self._budget = budget
        self._report = report
        self._tally = Tally()
        self._open: list[Shard] = []
        self._owners: dict[str, tuple[Shard, str | None]] = {}  # and gold answers, by prompt
        self._queue: deque[Ask] = deque()
        self._num_drawing = 0
        self._grading = _GradingQueue(grader)
        self._renew_timer = _Timer(min(store.lease_seconds / 10, 30.0))
        self._claim_timer = _Timer(min(store.lease_seconds / 10, 0.5))
        self._report_timer = _Timer(1.0)
        self._rest_is_taken = False

    def run(self) -> Tally:
        try:
            while self._go_on():
                for sample in self._drawer.finished():
                    self._num_drawing -= 1
                    _, gold = self._owners.get(sample.id, (None, None))
                    self._grading.add(sample, gold)
                self._write_graded()
                self._keep_up()
        finally:
            self._stop()
        self._report(self._tally)
        return self._tally

    def _stop(self) -> None:
        try:
            while self._grading:  # what is drawn was paid for
                self._write(self._grading.pop())
        finally:
            self._grading.close()
            self._count_present()
            for shard in self._open:
                shard.release()
            self._store.release()  # also a shard that was claimed but not yet opened

    def _go_on(self) -> bool:
        """Submit as many samples as there is room for; False if nothing is left to wait for."""
        while True:
            while self._drawer.room > 0 and (ask := self._next()):
                self._num_drawing += len(ask.samples)
                self._drawer.submit(ask)
            if self._num_drawing or self._grading:
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
        """Samples that the budget pays for, if each is as long as it may be."""
        if self._budget is None:
            return sys.maxsize
        left = self._budget - self._tally.tokens
        return left // self._store.config.max_tokens - self._num_drawing - len(self._grading)

    def _begin(self, shard: Shard) -> None:
        if not shard.num_missing:
            shard.finish()
            return
        self._open.append(shard)
        self._queue += shard.missing
        self._owners |= {ask.prompt.id: (shard, ask.prompt.answer) for ask in shard.missing}

    def _write_graded(self) -> None:
        while self._grading.has_graded():
            self._write(self._grading.pop())
        # With nothing else to do, or too many of them, wait for the first.
        if self._grading and (not self._num_drawing or len(self._grading) > _MOST_UNGRADED):
            self._write(self._grading.pop())

    def _write(self, sample: Sample) -> None:
        self._tally.count(sample)
        shard, _ = self._owners.get(sample.id, (None, None))
        if shard is None:  # another worker has it now
            return
        shard.write(sample)
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
                lost = {ask.prompt.id for ask in shard.missing}
                self._queue = deque(ask for ask in self._queue if ask.prompt.id not in lost)
        if self._report_timer.due():
            self._count_present()
            self._report(self._tally)

    def _count_present(self) -> None:
        self._tally.present = sum(one.num_samples - one.num_missing for one in self._open)
        self._tally.running = self._drawer.num_running_tokens
