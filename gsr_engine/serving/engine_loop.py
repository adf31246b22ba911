"""The thread that owns an engine: it does what it is told between steps, and steps."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from gsr_engine.engine import Engine
from gsr_engine.errors import EngineClosed, InvalidRequest, QueueFull
from gsr_engine.serving.mailbox import Mailbox
from gsr_engine.serving.observer import RequestObserver, StreamingRequest

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Ticket:
    """A request that is not finished; without room for it, it is not `submitted` yet."""

    request_id: str
    request: StreamingRequest
    observer: RequestObserver
    mailbox: Mailbox
    submitted: bool = False


class EngineLoop:
    """Runs one engine in one thread, which alone touches it, its tokenizer included.

    Everything is said to it through `call`; the methods without a future are for that thread.
    Nothing to do, it sleeps.

    Attributes:
        ended: done when the thread is about to return, for any reason.
        tickets: the unfinished requests by their ids; for the thread only.
        waiting: those of them that wait for room, in order; for the thread only.
    """

    def __init__(self, engine: Engine, max_pending: int) -> None:
        self._engine = engine
        self._max_pending = max_pending
        self._condition = threading.Condition()  # guards the next two, all else is the thread's
        self._commands: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._closed: str | None = None
        self._cause: BaseException | None = None
        self.tickets: dict[str, Ticket] = {}
        self.waiting: deque[Ticket] = deque()
        self._draining = False
        self._drained: list[Future[None]] = []
        self._stopped = False
        self.ended: Future[None] = _promise()
        # A daemon: a host that forgets to close still exits.
        self._thread = threading.Thread(target=self._run, name="gsr-engine", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Have the thread do something before its next step.

        Raises:
            EngineClosed: it ended, or is about to.
        """
        future: Future[T] = Future()
        with self._condition:
            if self._closed is not None:
                raise self._refusal()
            self._commands.append((future, work))
            self._condition.notify()
        return future

    def _refusal(self) -> EngineClosed:
        refusal = EngineClosed(self._closed)
        refusal.__cause__ = self._cause
        return refusal

    def close(self) -> None:
        """Abort what is left and end the thread; `ended` tells when that is done."""
        with self._condition:
            if self._closed is None:
                self._closed = "the engine is closed"
                self._commands.append((Future(), self._stop))
                self._condition.notify()

    def join(self) -> None:
        """Wait for the end of the thread; a moment, once `ended` is done."""
        self._thread.join()

    def open(
        self, request_id: str, make: Callable[[], StreamingRequest], mailbox: Mailbox, wait: bool
    ) -> None:
        """Make a request and submit it, as soon as there is room.

        Raises:
            InvalidRequest: it cannot be served, or its id is taken.
            EngineClosed: the engine is being drained.
            QueueFull: there is no room, and it is not to `wait`.
        """
        if self._draining:
            raise EngineClosed("the engine is being drained, it takes no more requests")
        if request_id in self.tickets:
            raise InvalidRequest("request_id", f"{request_id!r} is the id of a live request")
        request = make()
        if not wait and len(self.tickets) >= self._max_pending:
            raise QueueFull(f"max_pending is {self._max_pending}, and so many are unfinished")
        observer = RequestObserver(request_id, request, self._engine.tokenizer)
        ticket = Ticket(request_id, request, observer, mailbox)
        self.tickets[request_id] = ticket
        self.waiting.append(ticket)
        self._fill_room()

    def abort(self, request_id: str) -> bool:
        """End a request with what is there; False if there is no such request."""
        ticket = self.tickets.get(request_id)
        if ticket is not None:
            self._abort(ticket)
        return ticket is not None

    def discard(self, request_id: str, mailbox: Mailbox) -> None:
        """Nobody reads this mailbox any more: abort its request unless it is finished."""
        ticket = self.tickets.get(request_id)
        if ticket is not None and ticket.mailbox is mailbox:
            self._abort(ticket)
            del self.tickets[request_id]

    def drain(self) -> Future[None]:
        """Refuse new requests; the future is done when none is left."""
        self._draining = True
        self._drained.append(_promise())
        return self._drained[-1]

    def _stop(self) -> None:
        self._stopped = True
        for ticket in self.tickets.values():
            self._abort(ticket)

    def _abort(self, ticket: Ticket) -> None:
        if not ticket.submitted:  # then it ends as all others do, through the engine
            self.waiting.remove(ticket)
            self._submit(ticket)
        self._engine.abort(ticket.request)

    def _submit(self, ticket: Ticket) -> None:
        ticket.submitted = True
        self._engine.submit(ticket.request)

    def _fill_room(self) -> None:
        while self.waiting and len(self.tickets) - len(self.waiting) < self._max_pending:
            self._submit(self.waiting.popleft())

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._obey()
                self._deliver()
                if self._engine.has_work:
                    self._engine.step()
        except BaseException as error:
            _log.error("the engine's thread died", exc_info=error)
            self._end(error)
        else:
            self._end(None)

    def _obey(self) -> None:
        with self._condition:
            while not (self._commands or self.tickets or self._engine.has_work):
                self._condition.wait()
            count = len(self._commands)
        for _ in range(count):  # those that come meanwhile wait for a step
            future, work = self._commands.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except Exception as error:  # of this call alone
                future.set_exception(error)
            else:
                future.set_result(result)

    def _deliver(self) -> None:
        for ticket in list(self.tickets.values()):
            finished = ticket.request.finished
            if not ticket.submitted or (ticket.mailbox.unread and not finished):
                continue  # for a reader that is behind, what is new may as well be found later
            try:
                ticket.mailbox.put(ticket.observer.news())
            except Exception as error:  # of this request alone: its event loop is gone, say
                ticket.mailbox.fail(error)
                self._engine.abort(ticket.request)
                finished = True
            if finished:
                del self.tickets[ticket.request_id]
        self._fill_room()
        if not self.tickets:
            self._tell_drained(None)

    def _tell_drained(self, error: EngineClosed | None) -> None:
        drained, self._drained = self._drained, []
        for future in drained:
            future.set_exception(error) if error else future.set_result(None)

    def _end(self, error: BaseException | None) -> None:
        with self._condition:
            self._cause = error
            if error is not None:
                self._closed = f"the engine's thread died: {type(error).__name__}: {error}"
        for future, _ in self._commands:
            if future.set_running_or_notify_cancel():
                future.set_exception(self._refusal())
        for ticket in self.tickets.values():
            ticket.mailbox.fail(self._refusal())
        self._tell_drained(self._refusal())
        self._engine.close()
        self.ended.set_result(None)


def _promise() -> Future[None]:
    """A future that whoever waits for it cannot cancel: others may wait for it, too."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future
