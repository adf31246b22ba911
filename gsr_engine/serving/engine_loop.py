"""The thread that owns an engine: it runs steps, and the calls of other threads between them."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from gsr_engine.engine import Engine
from gsr_engine.errors import EngineClosed, InvalidRequest, QueueFull, shown
from gsr_engine.execution.ownership import HomeProcess
from gsr_engine.serving.events import Coalesce
from gsr_engine.serving.mailbox import Mailbox, wake
from gsr_engine.serving.makers import Makers
from gsr_engine.serving.observer import RequestObserver, StreamingRequest
from gsr_engine.serving.tickets import Ticket, WaitingRoom

_log = logging.getLogger(__name__)
T = TypeVar("T")

EXIT_SECONDS = 60.0
"""How long the end of the process waits for the step that runs."""


class EngineLoop:
    """Runs one engine in one thread; other threads only make requests.

    Other threads use `make`, `call`, `step_seconds`, `close`, `join`, `home` and `ended` only. All
    other methods must run in the loop's own thread, that is, through `call`. It sleeps when there
    is no work.
    Between two steps it does nothing that grows with the input of one request, with the number of
    requests that wait for room, or with the time for which a reader read nothing.

    Attributes:
        home: the process that has the thread.
        ended: done when the thread is about to return, for any reason.
        tickets: the unfinished requests by their ids; for the loop's thread only.
        waiting: those that wait for room; for the loop's thread only.
    """

    def __init__(self, engine: Engine, max_pending: int) -> None:
        self._engine = engine
        self._max_pending = max_pending
        # Guards `_commands` and `_closed`; only the loop's thread uses the other fields.
        self._condition = threading.Condition()
        self._commands: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._closed: str | None = None
        self._cause: BaseException | None = None
        self._makers = Makers()
        self.tickets: dict[str, Ticket] = {}
        self.waiting = WaitingRoom()
        self._submitted: dict[str, Ticket] = {}  # those of `tickets` that do not wait
        self._draining = False
        self._drained: list[Future[None]] = []
        self._stopped = False
        self._step_began: float | None = None  # None between two steps; any thread may read it
        self.ended: Future[None] = _promise()
        # A host program that forgets to close can still exit. Python waits for other threads, so it
        # is a daemon; but one that computes while the interpreter is taken down would crash the
        # process, so it is stopped before.
        self._thread = threading.Thread(target=self._run, name="gsr-engine", daemon=True)
        self.home = HomeProcess()
        atexit.register(self._stop_at_exit)
        self._thread.start()

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Run `work` in the loop's thread before its next step; the future has its result.

        Raises:
            EngineClosed: the thread ended, or is about to end.
            EngineForked: this process is a fork of the one that has the thread.
        """
        self.home.check()  # first: a lock that was taken when the process was forked stays taken
        future: Future[T] = Future()
        with self._condition:
            if self._closed is not None:
                raise self._refusal()
            self._commands.append((future, work))
            self._condition.notify()
        return future

    def make(self, size: int, work: Callable[[], T]) -> Future[T]:
        """Run `work`, which makes a request of an input of that size, outside the loop's thread.

        Raises:
            EngineClosed, EngineForked: as `call`.
        """
        self.home.check()
        with self._condition:
            if self._closed is not None:
                raise self._refusal()
            return self._makers.submit(size, work)

    def step_seconds(self) -> float:
        """How long the present step has been running, by the engine's clock; 0 if none runs.

        Raises:
            EngineForked: as `call`.
        """
        self.home.check()
        began = self._step_began
        return 0.0 if began is None else self._engine.clock() - began

    def _refusal(self) -> EngineClosed:
        refusal = EngineClosed(self._closed)
        refusal.__cause__ = self._cause
        return refusal

    def close(self) -> None:
        """Abort all unfinished requests and end the thread; `ended` is done afterwards."""
        with self._condition:
            if self._closed is None:
                self._closed = "the engine is closed"
                self._commands.append((Future(), self._stop))
                self._condition.notify()

    def _stop_at_exit(self) -> None:
        if self.home.is_present:  # a forked child has no such thread
            self.close()
            self._thread.join(EXIT_SECONDS)

    def join(self) -> None:
        """Wait for the end of the thread, which is near once `ended` is done."""
        self._thread.join()

    def open(
        self,
        request_id: str,
        request: StreamingRequest,
        mailbox: Mailbox,
        wait: bool,
        coalesce: Coalesce,
    ) -> None:
        """Take a request, and submit it as soon as there is room.

        Raises:
            InvalidRequest: its id is taken.
            EngineClosed: the engine is being drained.
            QueueFull: there is no room, and `wait` is False.
        """
        if mailbox.left:
            return
        if self._draining:
            raise EngineClosed("the engine is being drained, it takes no more requests")
        if request_id in self.tickets:
            raise InvalidRequest("request_id", f"{shown(request_id)} is the id of a live request")
        if not wait and len(self.tickets) >= self._max_pending:
            raise QueueFull(f"max_pending is {self._max_pending}, and so many are unfinished")
        observer = RequestObserver(request_id, request, self._engine.tokenizer, coalesce)
        ticket = Ticket(request_id, request, observer, mailbox)
        self.tickets[request_id] = ticket
        self.waiting.add(ticket)
        self._fill_room()

    def abort(self, request_id: str) -> bool:
        """End a request; its result holds what is there so far. False if no such request exists."""
        ticket = self.tickets.get(request_id)
        if ticket is not None:
            self._abort(ticket)
        return ticket is not None

    def discard(self, request_id: str, mailbox: Mailbox) -> None:
        """Abort the request of a mailbox that has no reader any more, unless it is finished."""
        ticket = self.tickets.get(request_id)
        if ticket is not None and ticket.mailbox is mailbox:
            self._abort(ticket)
            self._forget(ticket)

    def drain(self) -> Future[None]:
        """Refuse new requests; the future is done when all requests are finished."""
        self._draining = True
        self._drained.append(_promise())
        return self._drained[-1]

    def _stop(self) -> None:
        self._stopped = True
        for ticket in self.tickets.values():
            self._abort(ticket)

    def _abort(self, ticket: Ticket) -> None:
        if (
            ticket in self.waiting
        ):  # submit it first, so that it ends through the engine like others
            self.waiting.remove(ticket)
            self._submit(ticket)
        self._engine.abort(ticket.request)

    def _submit(self, ticket: Ticket) -> None:
        self._submitted[ticket.request_id] = ticket
        self._engine.submit(ticket.request)

    def _forget(self, ticket: Ticket) -> None:
        del self.tickets[ticket.request_id]
        self._submitted.pop(ticket.request_id, None)

    def _fill_room(self) -> None:
        while self.waiting and len(self._submitted) < self._max_pending:
            self._submit(self.waiting.pop())

    def _expire(self) -> None:
        # The engine watches deadlines of submitted requests only. One that has passed is submitted
        # without room, because the next step ends it before anything is admitted. While a request
        # waits for room, others are unfinished, so the thread does not sleep.
        if self.waiting.timed:
            for ticket in self.waiting.pop_expired(self._engine.clock()):
                self._submit(ticket)

    def _run(self) -> None:
        try:
            with self._engine.owned():
                self._serve()
        except BaseException as error:
            _log.error("the engine's thread died", exc_info=error)
            self._end(error)
        else:
            self._end(None)

    def _serve(self) -> None:
        while not self._stopped:
            self._obey()
            self._expire()
            self._deliver()
            if self._engine.ended:  # in a call between two steps
                raise self._engine.ended
            if self._engine.has_work:
                self._step()
        while self._submitted:  # all are ended: tell their readers the rest
            self._deliver()

    def _step(self) -> None:
        self._step_began = self._engine.clock()
        try:
            self._engine.step()
        finally:
            self._step_began = None

    def _obey(self) -> None:
        with self._condition:
            while not (self._commands or self.tickets or self._engine.has_work):
                self._condition.wait()
            count = len(self._commands)
        # Calls that arrive from now on wait for the next step: they cannot keep the engine from it.
        for _ in range(count):
            future, work = self._commands.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:  # also one that is no Exception concerns this call only
                future.set_exception(error)
            else:
                future.set_result(result)

    def _deliver(self) -> None:
        waiting: dict[Mailbox, Ticket] = {}
        for ticket in list(self._submitted.values()):
            if ticket.mailbox.unread and not ticket.request.finished:
                continue  # a reader that is behind gets the news, merged, in later looks
            try:
                news = ticket.observer.news()
            except BaseException as error:  # only this request fails
                self._fail(ticket, error)
                continue
            if news and ticket.mailbox.put(news):
                waiting[ticket.mailbox] = ticket
        for mailbox in wake(waiting):
            self._fail(waiting[mailbox], RuntimeError("the reader's event loop is closed"))
        for ticket in [one for one in self._submitted.values() if one.observer.told]:
            self._forget(ticket)
        self._fill_room()
        if not self.tickets:
            self._tell_drained(None)

    def _fail(self, ticket: Ticket, error: BaseException) -> None:
        ticket.mailbox.fail(error)
        self._engine.abort(ticket.request)
        self._forget(ticket)

    def _tell_drained(self, error: EngineClosed | None) -> None:
        drained, self._drained = self._drained, []
        for future in drained:
            future.set_exception(error) if error else future.set_result(None)

    def _end(self, error: BaseException | None) -> None:
        with self._condition:
            self._cause = error
            if isinstance(error, EngineClosed):
                self._closed, self._cause = str(error), error.__cause__
            elif error is not None:
                self._closed = f"the engine's thread died: {type(error).__name__}: {error}"
        for future, _ in self._commands:
            if future.set_running_or_notify_cancel():
                future.set_exception(self._refusal())
        for ticket in self.tickets.values():
            ticket.mailbox.fail(self._refusal())
        self._tell_drained(self._refusal())
        self._makers.close()
        atexit.unregister(self._stop_at_exit)
        try:
            self._engine.close()
        finally:  # also if the host program uses the engine in its own thread, against the rules
            self.ended.set_result(None)


def _promise() -> Future[None]:
    """A future that cannot be cancelled, because several callers may wait for it."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future
