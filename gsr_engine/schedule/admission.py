"""Which requests run, and who gives way when pages run out.

A request is admitted when what it needs at once fits above a watermark; what it needs later it
takes as it grows. When pages run out, cached prompts go first, then requests are preempted: their
pages are given back, their tokens kept, and their KV is computed again once they are admitted
again. First those with candidates, the newest first; then refinements, likewise. The oldest is
never preempted, only single streams of it wait for their siblings, so there is always progress.
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
from gsr_engine.requests.request import Group, Request, Stream
from gsr_engine.schedule.memory import Memory

_WATERMARK = 50
"""One page in so many stays free at admission, for the streams that run to grow into."""


class Admission:
    """The running and the waiting requests.

    Attributes:
        waiting: those that hold nothing: not admitted yet, or preempted.
        running: those that hold pages, the oldest first.
        num_preemptions: how often a request, or a stream of the oldest, had to give way.
    """

    def __init__(self, config: EngineConfig, memory: Memory) -> None:
        self._memory = memory
        self._max_streams = config.max_num_seqs
        self._watermark = memory.pool.num_pages // _WATERMARK
        self._num_streams = 0
        self._paused: list[tuple[Group, Stream]] = []
        self.waiting = WaitingQueue()
        self.running: list[AnyRequest] = []
        self.num_preemptions = 0

    def groups(self) -> Iterator[Group]:
        """What the running requests compute, the oldest first."""
        return (group for request in self.running for group in request.groups or ())

    def runs(self, request: AnyRequest) -> bool:
        """Whether a request is admitted now."""
        return not request.finished and request not in self.waiting

    def admit(self) -> list[AnyRequest]:
        """Let in what fits; returns the requests that it let in."""
        self._resume_streams(self._watermark + len(self.running))
        admitted = []
        while (request := self.waiting.first()) is not None:
            if request.groups is None:
                request.groups = request.start(self._memory.new_prompt)
            if self.running and not self._fits(request):
                break
            self.waiting.remove(request)
            bisect.insort(self.running, request, key=lambda one: one.place or (0, 0))
            self._num_streams += request.num_streams
            self._hold(request.groups)
            admitted.append(request)
        return admitted

    def _fits(self, request: AnyRequest) -> bool:
        if self._num_streams + request.num_streams > self._max_streams:
            return False
        return self._memory.make_free_for(request.groups or (), reserve=self._watermark)

    def _hold(self, groups: Sequence[Group]) -> None:
        """Hold groups and, as far as there is room, their streams."""
        self._memory.make_free_for(groups, streams=False)
        for group in groups:
            if not group.held:
                self._memory.hold(group)
        for group in groups:
            for stream in group.streams:
                if stream.needed and not stream.held:
                    self._paused.append((group, stream))
        self._resume_streams(reserve=0)

    def start(self, request: AnyRequest, groups: list[Group]) -> None:
        """Hold what a running request adds; where there is no room, it waits for its turn."""
        if request.groups is None or not groups:
            return
        request.groups.extend(group for group in groups if group not in request.groups)
        if not self.runs(request):
            return
        if self._make_room(partial(self._memory.make_free_for, groups), request):
            self._hold(groups)
        else:
            self._preempt(request)

    def grow(self) -> None:
        """Give every stream the page that its next token needs."""
        while True:
            growing = [one for group in self.groups() for one in group.growing()]
            if self._memory.make_free(lacking_pages(growing)):
                break
            self._give_way()
        for segment, num_tokens in growing:
            self._memory.pool.grow(segment, num_tokens)

    def _give_way(self) -> None:
        victim = self._victim(self.running[0])
        if victim is not None:
            self._preempt(victim)
            return
        streams = [
            (group, stream)
            for group in self.running[0].groups or ()
            for stream in group.streams
            if stream.held and not stream.finished
        ]
        if len(streams) < 2:
            raise OutOfPages("the oldest request alone does not fit the pool")
        self._memory.drop_stream(streams[-1][1])
        self._paused.append(streams[-1])
        self.num_preemptions += 1

    def _make_room(self, enough: Callable[[], bool], request: AnyRequest) -> bool:
        """Whether there is enough room, if need be after preempting others than `request`."""
        while not enough():
            victim = self._victim(request)
            if victim is None:
                return False
            self._preempt(victim)
        return True

    def _victim(self, beneficiary: AnyRequest) -> AnyRequest | None:
        """Who gives way: the newest request with candidates, else the newest refinement."""
        others = [request for request in self.running[1:] if request is not beneficiary]
        place = beneficiary.place or (0, 0)
        for request in reversed(others):
            if not request.refining:
                return request
        newest = others[-1] if others else None
        return newest if newest and (newest.place or (0, 0)) > place else None

    def preempt_all(self) -> None:
        """Let every running request give its pages back and wait."""
        for request in list(self.running):
            self._preempt(request)

    def _preempt(self, request: AnyRequest) -> None:
        self.num_preemptions += 1
        self._stop(request)
        self.waiting.add(request)

    def _stop(self, request: AnyRequest) -> None:
        for group in request.groups or ():
            self._memory.release(group)
        self.running.remove(request)
        self._num_streams -= request.num_streams

    def retire(self, request: AnyRequest) -> None:
        """A request has its result: nothing of it stays."""
        if request in self.waiting:
            self.waiting.remove(request)
        else:
            self._stop(request)
        request.groups = None

    def _resume_streams(self, reserve: int) -> None:
        """Hold the paused streams, as far as there is room beyond a reserve."""
        paused, self._paused = self._paused, []
        for group, stream in paused:
            if not group.held or stream.held or not stream.needed:
                continue
            pages = pages_for(max(1, len(stream.segment)))
            if self._memory.make_free(pages + reserve) or (
                not self._anything_works()
                and self._make_room(partial(self._memory.make_free, pages), group.request)
            ):
                self._memory.hold_stream(stream)
            else:
                self._paused.append((group, stream))

    def _anything_works(self) -> bool:
        return any(
            stream.held and not stream.finished
            for group in self.groups()
            for stream in group.streams
        )


AnyRequest = Request[Any]
OVERTAKES = 64
"""Earlier requests that one level of priority overtakes; what comes later can be overtaken no
more by it, so a stream of higher priority delays a request, but never for ever."""


class WaitingQueue:
    """A heap by (arrival - 64 * priority): adding and taking cost log n, peeking nothing."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self._requests: dict[tuple[int, int], AnyRequest] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request: AnyRequest) -> bool:
        return request.place in self._requests

    def add(self, request: AnyRequest) -> None:
        """Queue a request: a new one by its priority, a preempted one at the place that it had."""
        if request.place is None:
            request.place = (self._arrivals - OVERTAKES * request.priority, self._arrivals)
            self._arrivals += 1
        self._requests[request.place] = request
        heapq.heappush(self._heap, request.place)

    def first(self) -> AnyRequest | None:
        """Who is next; None if nobody waits."""
        while self._heap and self._heap[0] not in self._requests:
            heapq.heappop(self._heap)  # it was taken out
        return self._requests[self._heap[0]] if self._heap else None

    def remove(self, request: AnyRequest) -> None:
        """Take a request out, wherever it stands."""
        if request.place is not None:
            del self._requests[request.place]
