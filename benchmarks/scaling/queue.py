"""What a queue costs: time per step, memory, and how long a request can be overtaken."""

from __future__ import annotations

import itertools
import statistics
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.stopwatch import Stopwatch
from benchmarks.stub_runner import stub_engine
from gsr_engine import SamplingParams, SelfRefineParams
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.schedule.admission import OVERTAKES

_BLOCK = 25
"""Steps of one queue in a row. The queues take turns, so all of them see the same machine."""
_TIMEOUT = 1e6
"""Seconds. No request reaches it, but the scheduler must check it."""


@dataclass(frozen=True, slots=True)
class QueueCost:
    """One queue length.

    Attributes:
        waiting: requests in the queue besides those that run, the same number all the time.
        deadlines: whether each has a deadline.
        step_us: microseconds of plan and commit per step, the median over blocks of steps.
        slowest_us: the same of the slowest step in a hundred.
        submit_us: microseconds to make and submit a request, tokenising included.
        request_bytes: memory that the engine keeps for a queued request.
    """

    waiting: int
    deadlines: bool
    step_us: float
    slowest_us: float
    submit_us: float
    request_bytes: float


class _Queue:
    """An engine with a stub model and a queue that never gets shorter."""

    def __init__(
        self, waiting: int, deadlines: bool, streams: int, k: int, problems: Sequence[str]
    ) -> None:
        self._waiting, self._deadlines = waiting, deadlines
        self._problems = itertools.cycle(problems)
        self._engine = stub_engine(max_num_seqs=streams, num_pages=4096)
        self._params = SelfRefineParams(
            k=k,
            candidate=SamplingParams(max_tokens=256),
            refine=SamplingParams(max_tokens=256),
            candidate_timeout=_TIMEOUT if deadlines else None,
            seed=0,
        )
        self._indices = itertools.count()
        self._watch = Stopwatch()
        self._steps_us: list[float] = []
        self._submit_us, self._request_bytes = self._fill(waiting + streams // k)
        for name in ("plan", "commit"):
            self._watch.watch(self._engine.scheduler, name)

    def _fill(self, count: int) -> tuple[float, float]:
        """Microseconds and bytes per request: one half is timed, the other half is traced."""
        half = count // 2
        start = time.perf_counter()
        self._submit(half)
        seconds = time.perf_counter() - start
        tracemalloc.start()
        self._submit(count - half)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return seconds / half * 1e6, kept / (count - half)

    def _submit(self, count: int) -> None:
        for problem in itertools.islice(self._problems, count):
            request = self._engine.new_self_refine(problem, self._params, index=next(self._indices))
            self._engine.submit(request)

    def run(self, steps: int) -> None:
        """Take some steps; finished requests are replaced outside the measured time."""
        for _ in range(steps):
            self._watch.reset()
            finished = self._engine.step()
            self._steps_us.append(sum(self._watch.seconds.values()) * 1e6)
            self._submit(len(finished))

    def forget(self) -> None:
        """Drop the steps so far: they were the warm-up."""
        self._steps_us.clear()

    def cost(self) -> QueueCost:
        """The figures of the steps so far."""
        means = [statistics.fmean(block) for block in _blocks(self._steps_us)]
        return QueueCost(
            waiting=self._waiting,
            deadlines=self._deadlines,
            step_us=statistics.median(means),
            slowest_us=sorted(self._steps_us)[-1 - len(self._steps_us) // 100],
            submit_us=self._submit_us,
            request_bytes=self._request_bytes,
        )


def _blocks(values: list[float]) -> Iterator[list[float]]:
    for begin in range(0, len(values), _BLOCK):
        yield values[begin : begin + _BLOCK]


def measure_queue(
    lengths: Sequence[int], steps: int, streams: int = 64, k: int = 4
) -> list[QueueCost]:
    """The cost at each queue length, without and with deadlines; the queues take turns by blocks.

    The stub draws the same tokens for all queues, and all take the same problems in turn. So the
    running requests are the same, and only the number of waiting ones differs.
    """
    puzzles = sample_puzzles("test", 0, max(lengths) + streams // k)
    problems = [puzzle.problem for puzzle in puzzles]
    queues = [
        _Queue(waiting, deadlines, streams, k, problems)
        for deadlines in (False, True)
        for waiting in lengths
    ]
    for queue in queues:
        queue.run(min(steps, 2 * _BLOCK))
        queue.forget()
    for begin in range(0, steps, _BLOCK):
        for queue in queues:
            queue.run(min(_BLOCK, steps - begin))
    return [queue.cost() for queue in queues]


@dataclass(frozen=True, slots=True)
class Fairness:
    """One request beside an endless stream of requests with a higher priority.

    Attributes:
        priority: of the stream; the one request has priority 0.
        arrivals: requests of the stream that arrived later, until the one request was finished.
        bound: the largest possible number: requests that overtake it, requests that run when its
            turn comes, and requests that run beside it.
    """

    priority: int
    arrivals: int
    bound: int


def measure_fairness(priority: int, streams: int = 8, tokens: int = 16) -> Fairness:
    """Submit one request of priority 0 among others of `priority`; a finished one is replaced.

    All requests generate the same number of tokens, so that they differ only in their turn.
    """
    engine = stub_engine(max_num_seqs=streams, num_pages=4096)
    indices = itertools.count()

    def submit(level: int) -> object:
        params = SamplingParams(max_tokens=tokens, ignore_eos=True, priority=level, seed=0)
        request = engine.new_generate([7, 8, 9], params, index=next(indices))
        engine.submit(request)
        return request

    for _ in range(streams):
        submit(priority)
    engine.step()
    low, arrivals = submit(0), 0
    bound = OVERTAKES * priority + 2 * streams
    while arrivals <= bound:  # the benchmark ends even if the request waits for ever
        finished = engine.step()
        if low in finished:
            break
        for _ in finished:
            submit(priority)
            arrivals += 1
    return Fairness(priority, arrivals, bound)
