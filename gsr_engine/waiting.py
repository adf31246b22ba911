"""Requests that wait for room, in an order that starves nobody."""

from __future__ import annotations

import heapq
from typing import Any

from gsr_engine.sequence import Request

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
