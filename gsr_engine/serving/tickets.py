"""The unfinished requests of an `AsyncEngine`, and those among them that wait for room."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count

from gsr_engine.serving.mailbox import Mailbox
from gsr_engine.serving.observer import RequestObserver, StreamingRequest

_MIN_DEADLINES = 64
"""A heap of deadlines this small is never tidied."""

_numbers = count()


@dataclass(eq=False, slots=True)
class Ticket:
    """An unfinished request; it is submitted to the engine as soon as there is room.

    `number` is its place in the order of all tickets.
    """

    request_id: str
    request: StreamingRequest
    observer: RequestObserver
    mailbox: Mailbox
    number: int = field(default_factory=lambda: next(_numbers))


class WaitingRoom:
    """The tickets that wait for room, first come, first served.

    To add, remove and ask costs the same however many wait, but for a logarithm with deadlines.
    """

    def __init__(self) -> None:
        self._tickets: OrderedDict[int, Ticket] = OrderedDict()
        self._deadlines: list[tuple[float, int]] = []  # a heap; some of tickets that left

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket.number in self._tickets

    def add(self, ticket: Ticket) -> None:
        """Let a ticket wait, behind all others."""
        self._tickets[ticket.number] = ticket
        for moment in ticket.request.deadlines.moments:
            heapq.heappush(self._deadlines, (moment, ticket.number))

    def remove(self, ticket: Ticket) -> None:
        """Let a ticket leave, wherever it stands."""
        del self._tickets[ticket.number]
        if len(self._deadlines) > 4 * len(self._tickets) + _MIN_DEADLINES:
            # A ticket has two deadlines at most: half of these or more are of tickets that left.
            self._deadlines = [one for one in self._deadlines if one[1] in self._tickets]
            heapq.heapify(self._deadlines)

    def pop(self) -> Ticket:
        """Let the first one leave."""
        ticket = next(iter(self._tickets.values()))
        self.remove(ticket)
        return ticket

    @property
    def timed(self) -> bool:
        """Whether a deadline is watched."""
        return bool(self._deadlines)

    def pop_expired(self, now: float) -> list[Ticket]:
        """Let those leave of which a deadline has passed."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            ticket = self._tickets.get(heapq.heappop(self._deadlines)[1])
            if ticket is not None:
                self.remove(ticket)
                expired.append(ticket)
        return expired
