"""Which requests run, and which are preempted when pages run out.

A request is admitted if the pages that it needs at once fit above a watermark; later it takes pages
as it grows. When pages run out, cached prompts are evicted first. Then requests are preempted:
their pages are freed, their tokens kept, and their KV is recomputed once they are admitted again.
Requests that write candidates are preempted before requests that refine, the newest first in both
kinds. The oldest request is never preempted for another; only single streams of it are paused. So
the oldest request always makes progress. The README of this package proves it.

Every loop here is bounded: one step admits at most `max_num_seqs` requests, and preempts or pauses
each running request or stream at most once, because admission itself preempts nobody.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from gsr_engine.config import EngineConfig
from gsr_engine.errors import OutOfPages
from gsr_engine.kv.page_pool import lacking_pages
from gsr_engine.kv.segments import pages_for
from gsr_engine.requests.request import (
    Group,
    GroupState,
    QueuePosition,
    Request,
    RequestState,
    Stream,
    StreamState,
)
from gsr_engine.schedule.memory import Memory

AnyRequest = Request[Any]

WATERMARK = 50
"""One page in 50 stays free at admission, so that running streams can grow."""
OVERTAKES = 64
"""A request is queued as if it had arrived this many places earlier per level of priority. So a
waiting request can be overtaken only by the next 64 arrivals per level of difference, and a steady
stream of high-priority requests cannot starve it."""


_MIN_HEAP = 64
"""A heap of waiting requests this small is never tidied."""


class WaitingQueue:
    """A heap by (arrival - 64 * priority): adding and removing cost log n, looking is free.

    Attributes:
        num_streams: the streams of all its requests, each with the most that it decodes at a time.
    """

    def __init__(self) -> None:
        self._heap: list[QueuePosition] = []
        self._requests: dict[QueuePosition, AnyRequest] = {}
        self._arrivals = 0
        self.num_streams = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request: AnyRequest) -> bool:
        return self._requests.get(request.queue_position) is request

    def add(self, request: AnyRequest) -> None:
        """Queue a new request by its priority, a preempted one at the position that it had."""
        if request.state is RequestState.NEW:
            rank = self._arrivals - OVERTAKES * request.priority
            request.queue_position = QueuePosition(rank, self._arrivals)
            request.state = RequestState.QUEUED
            self._arrivals += 1
        else:
            request.state = RequestState.PREEMPTED
        self._requests[request.queue_position] = request
        self.num_streams += request.num_streams
        heapq.heappush(self._heap, request.queue_position)

    def first(self) -> AnyRequest | None:
        """The next request; None if the queue is empty."""
        while self._heap and self._heap[0] not in self._requests:
            heapq.heappop(self._heap)  # it was removed
        return self._requests[self._heap[0]] if self._heap else None

    def remove(self, request: AnyRequest) -> None:
        """Remove a request, wherever it stands in the queue."""
        del self._requests[request.queue_position]
        self.num_streams -= request.num_streams
        if len(self._heap) > 2 * len(self._requests) + _MIN_HEAP:
            self._heap = sorted(self._requests)  # most of it were requests that left


class Admission:
    """The running and the waiting requests; only this class and its queue change their state.

    Attributes:
        waiting: requests without pages: not admitted yet, or preempted.
        running: requests with pages, the oldest first.
        num_preemptions: how often a request was preempted, or a stream of the oldest request
            paused.
    """

    def __init__(self, config: EngineConfig, memory: Memory, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._clock = clock
        self._max_streams = self._most_streams = config.max_num_seqs
        self._watermark = memory.pool.num_pages // WATERMARK
        self._num_streams = 0
        self._paused: list[tuple[Group, Stream]] = []
        self.waiting = WaitingQueue()
        self.running: list[AnyRequest] = []
        self.num_preemptions = 0

    def groups(self) -> Iterator[Group]:
        """The groups of the running requests, the oldest request first."""
        return (group for request in self.running for group in request.groups)

    def running_streams(self) -> Iterator[Stream]:
        """The streams that hold pages and generate."""
        return (
            stream
            for group in self.groups()
            for stream in group.streams
            if stream.state is StreamState.RUNNING
        )

    def has(self, request: AnyRequest) -> bool:
        """Whether a request waits or runs here; one of another engine does not."""
        return request in self.waiting or request in self.running

    def admit(self) -> list[AnyRequest]:
        """Admit the waiting requests that fit, in their order; returns those admitted."""
        # Paused streams first: they belong to requests that were admitted earlier. The reserve
        # keeps a page for each running request, so that a resumed stream is not paused at once.
        self._resume_streams(self._watermark + len(self.running))
        admitted = []
        while (request := self.waiting.first()) is not None:
            if not request.groups:
                spare = self._memory.pool.num_pages - request.most_pages
                new_prompt = partial(self._memory.new_prompt, spare_pages=spare)
                request.groups = request.start(new_prompt)
            # A request alone is always admitted: `most_pages` fit the pool, and so do the pieces
            # of its context.
            if self.running and not self._fits(request):
                break
            self.waiting.remove(request)
            if request.state is RequestState.QUEUED:
                request.usage.queue_seconds = self._clock() - request.submitted_at
                for group in request.groups:
                    self._memory.count_evicted(group)
            request.state = RequestState.RUNNING
            bisect.insort(self.running, request, key=lambda one: one.queue_position)
            self._num_streams += request.num_streams
            self._hold(request.groups)
            admitted.append(request)
        return admitted

    def _fits(self, request: AnyRequest) -> bool:
        if self._num_streams + request.num_streams > self._most_streams:
            return False
        return self._memory.make_free_for(request.groups, reserve=self._watermark)

    def _hold(self, groups: Sequence[Group]) -> None:
        """Hold groups and, as far as there is room, their streams."""
        self._memory.make_free_for(groups, streams=False)
        for group in groups:
            if not group.holds_pages:
                self._memory.hold(group)
        for group in groups:
            for stream in group.streams:
                if stream.needed and not stream.holds_pages:
                    self._paused.append((group, stream))
        self._resume_streams(reserve=0)

    def start(self, request: AnyRequest, groups: list[Group]) -> None:
        """Hold the groups that a running request adds; without room for them it is preempted."""
        if request.finished or not groups:
            return
        request.groups.extend(group for group in groups if group not in request.groups)
        if request.state is not RequestState.RUNNING:
            return  # it was preempted, and holds them once it is admitted again
        with_streams = partial(self._memory.make_free_for, groups)
        without = partial(with_streams, streams=False)
        if self._make_room(with_streams, request) or without():
            self._hold(groups)
        else:  # it still holds pages of groups that end now: it is admitted again without them
            self._preempt(request)

    def finish(self, group: Group) -> None:
        """Free the pages of a finished group for good."""
        self._memory.note_peak(group.request)
        self._memory.release(group)
        group.state = GroupState.FINISHED
        group.request.groups.remove(group)

    def grow(self) -> None:
        """Add the page that the next token needs, for every segment that lacks it.

        Raises:
            OutOfPages: the oldest request alone does not fit the pool: it needs more than its
                `most_pages`, which is a defect.
        """
        self._run_oldest()
        while True:
            growing = [one for group in self.groups() for one in group.growing()]
            if self._memory.make_free(lacking_pages(growing)):
                break
            self._make_some_room()
        for segment, num_tokens in growing:
            self._memory.pool.grow(segment, num_tokens)

    def _run_oldest(self) -> None:
        """Resume a stream of the oldest request, for which others make room, if none of it runs."""
        oldest = self.running[:1]
        streams = [
            stream
            for request in oldest
            for group in request.groups
            if group.holds_pages
            for stream in group.streams
            if not stream.finished
        ]
        if not streams or any(stream.holds_pages for stream in streams):
            return
        pages = pages_for(max(1, len(streams[0].segment)))
        if not self._make_room(partial(self._memory.make_free, pages), oldest[0]):
            raise OutOfPages("the oldest request alone does not fit the pool")
        self._memory.hold_stream(streams[0])

    def _make_some_room(self) -> None:
        """Preempt one request or, if only the oldest runs, pause one stream of it."""
        victim = self._victim(self.running[0])
        if victim is not None:
            self._preempt(victim)
            return
        running = [
            (group, stream)
            for group in self.running[0].groups
            for stream in group.streams
            if stream.state is StreamState.RUNNING
        ]
        if len(running) < 2:  # pausing its last stream would end all progress
            raise OutOfPages("the oldest request alone does not fit the pool")
        self._memory.drop_stream(running[-1][1])
        self._paused.append(running[-1])
        self.num_preemptions += 1

    def _make_room(self, enough: Callable[[], bool], request: AnyRequest) -> bool:
        """Preempt others than `request` until there is enough room; returns whether there is."""
        while not enough():
            victim = self._victim(request)
            if victim is None:
                return False
            self._preempt(victim)
        return True

    def _victim(self, beneficiary: AnyRequest) -> AnyRequest | None:
        """The request to preempt so that `beneficiary` gets pages; None if no other may be."""
        # The oldest, running[0], is never preempted, so that it always makes progress.
        others = [request for request in self.running[1:] if request is not beneficiary]
        # Any request that still writes candidates goes before any refinement, even an older one:
        # a refinement is close to its end, and its end frees the most pages.
        for request in reversed(others):
            if not request.refining:
                return request
        # Among refinements the older wins, so that two of them cannot preempt each other in turn.
        newest = others[-1] if others else None
        if newest is not None and newest.queue_position > beneficiary.queue_position:
            return newest
        return None

    def preempt_all(self) -> None:
        """Preempt every running request."""
        for request in list(self.running):
            self._preempt(request)

    def preempt_newest(self) -> bool:
        """Preempt a request for those before it; returns False if there is at most one.

        Pages are not what is scarce, so no request takes its place until `readmit`.
        """
        victim = self._victim(self.running[0]) if self.running else None
        if victim is None:
            return False
        self._preempt(victim)
        self._most_streams = self._num_streams
        return True

    def readmit(self) -> None:
        """Run as many streams again as `max_num_seqs` says."""
        self._most_streams = self._max_streams

    def _preempt(self, request: AnyRequest) -> None:
        self.num_preemptions += 1
        self._stop(request)
        self.waiting.add(request)

    def _stop(self, request: AnyRequest) -> None:
        for group in request.groups:
            self._memory.release(group)
        self.running.remove(request)
        self._num_streams -= request.num_streams

    def retire(self, request: AnyRequest) -> None:
        """Free all pages of a request that has its result, and forget its groups."""
        if request.state is RequestState.RUNNING:
            self._stop(request)
        else:
            self.waiting.remove(request)
        for group in request.groups:
            group.state = GroupState.FINISHED
        request.groups = []
        request.state = RequestState.FINISHED

    def _resume_streams(self, reserve: int) -> None:
        """Hold the paused streams for which there is room beyond a reserve of pages."""
        paused, self._paused = self._paused, []
        for group, stream in paused:
            if not group.holds_pages or stream.holds_pages or not stream.needed:
                continue  # its group was preempted or finished, or it was resumed or ended
            pages = pages_for(max(1, len(stream.segment)))
            if self._memory.make_free(pages + reserve):
                self._memory.hold_stream(stream)
            else:
                self._paused.append((group, stream))
