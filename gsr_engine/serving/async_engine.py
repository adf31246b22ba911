"""The asyncio front: many callers, one engine, one thread."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from gsr_engine.engine import Engine
from gsr_engine.errors import EngineClosed, InvalidRequest
from gsr_engine.outputs import GenerateResult, RefineResult
from gsr_engine.params import SamplingParams, SelfRefineParams
from gsr_engine.serving.engine_loop import EngineLoop
from gsr_engine.serving.events import Event, Final
from gsr_engine.serving.mailbox import Mailbox
from gsr_engine.serving.observer import StreamingRequest

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")


class AsyncEngine:
    """Serves requests of any number of coroutines, in any event loop, from one thread of its own.

    The engine that it is given is its own from then on: nobody else may use it. It installs no
    signal handler, configures no logging and holds no global state, so it can live inside another
    server, and several of it in one process. Use it as an async context manager, or `close` it.

    `self_refine` and `generate` give the events of one request: `Submitted`, then `PhaseStarted`,
    tokens and `CandidateDone` as they come, and `Final` last, always. Closing the generator (or
    cancelling the task that reads it) aborts the request and gives its pages back. Leaving the loop
    early closes it only once Python collects it: `contextlib.aclosing` closes it at once.

    It pushes back both ways. At most `max_pending` requests are unfinished; more callers wait for
    room, first come, first served. A reader that is slow does not slow the engine down and is not
    buffered for without bound: what a stream grows by meanwhile joins its one unread token event.

    Attributes:
        loop: the thread that runs the engine; for instruments and tests.

    Raises:
        InvalidRequest: `max_pending` is out of range.
    """

    def __init__(self, engine: Engine, *, max_pending: int = 256) -> None:
        if isinstance(max_pending, bool) or not isinstance(max_pending, int) or max_pending < 1:
            raise InvalidRequest("max_pending", f"must be an integer above 0, got {max_pending!r}")
        self._engine = engine
        self.loop = EngineLoop(engine, max_pending)

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path, *, max_pending: int = 256, **options: Any
    ) -> Self:
        """Load a checkpoint as `Engine.from_pretrained` does, with its options and errors.

        That takes its time: inside a running event loop call it through `asyncio.to_thread`.
        """
        return cls(Engine.from_pretrained(path_or_id, **options), max_pending=max_pending)

    def self_refine(
        self,
        problem: str,
        params: SelfRefineParams | None = None,
        *,
        candidates: Sequence[str | list[int]] | None = None,
        request_id: str | None = None,
        wait: bool = True,
    ) -> AsyncGenerator[Event[RefineResult], None]:
        """The events of selfRef@k of one problem, the same as `Engine.self_refine([problem])`.

        Nothing happens before the first event is asked for. Candidates that are given are reported
        at once, as if they had been generated.

        Args:
            problem: its text.
            params: default `SelfRefineParams()`.
            candidates: text or token ids, to be refined instead of generated ones.
            request_id: a name for `abort`, unique among unfinished requests; None makes one, and
                `Submitted` tells it.
            wait: for room; if not, `QueueFull` is raised where there is none.

        Raises:
            InvalidRequest: it cannot be served; nothing was submitted.
            QueueFull: `max_pending` requests are unfinished, and it is not to wait.
            EngineClosed: the engine is closed or being drained, or its thread died (the reason is
                the exception's cause).
        """

        def make() -> StreamingRequest:
            mine = _params(params, SelfRefineParams)
            return self._engine.new_self_refine(problem, mine, candidates=candidates)

        return self._events(make, request_id, wait)

    def generate(
        self,
        prompt: str | list[int],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        wait: bool = True,
    ) -> AsyncGenerator[Event[GenerateResult], None]:
        """The events of completing one prompt, the same as `Engine.generate([prompt])`.

        Its n streams are reported as candidates; all else is as in `self_refine`.
        """

        def make() -> StreamingRequest:
            return self._engine.new_generate(prompt, _params(params, SamplingParams))

        return self._events(make, request_id, wait)

    async def _events(
        self, make: Callable[[], StreamingRequest], request_id: str | None, wait: bool
    ) -> AsyncGenerator[Event[Any], None]:
        name = secrets.token_hex(8) if request_id is None else request_id
        if not isinstance(name, str) or not name:
            raise InvalidRequest("request_id", f"must be text, got {request_id!r}")
        mailbox = Mailbox()
        try:
            # The request is made in the engine's thread: it needs the tokenizer, which no two
            # threads may use at a time.
            opened = self.loop.call(partial(self.loop.open, name, make, mailbox, wait))
            await asyncio.wrap_future(opened)
            event: Event[Any] | None = None
            while not isinstance(event, Final):
                event = await mailbox.get()
                yield event
        finally:
            with suppress(EngineClosed):
                self.loop.call(partial(self.loop.discard, name, mailbox))

    async def abort(self, request_id: str) -> bool:
        """End a request at once: its reader gets `Final` with what is there so far.

        False if no request of that id is unfinished. Its pages are free when this returns.

        Raises:
            EngineClosed: as in `self_refine`.
        """
        return await self._in_thread(partial(self.loop.abort, request_id))

    async def stats(self) -> dict[str, Any]:
        """What `Engine.stats` says at this moment. Raises EngineClosed as `self_refine`."""
        return await self._in_thread(self._engine.stats)

    async def check(self) -> None:
        """`Engine.check` between two steps. Raises PoolCorrupted, or EngineClosed."""
        await self._in_thread(self._engine.check)

    async def _in_thread(self, work: Callable[[], ResultT]) -> ResultT:
        return await asyncio.wrap_future(self.loop.call(work))

    async def drain(self) -> None:
        """Take no more requests, and wait until all that were taken are finished.

        From the call on requests are refused with `EngineClosed`; those that wait for room count as
        taken. Events that are not read yet can be read later.

        Raises:
            EngineClosed: as in `self_refine`.
        """
        await asyncio.wrap_future(await self._in_thread(self.loop.drain))

    async def close(self) -> None:
        """Abort what is left, end the thread and close the engine; again, it does nothing.

        Readers get what is unread, and `Final`.
        """
        self.loop.close()
        await asyncio.wrap_future(self.loop.ended)
        self.loop.join()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def final_result(events: AsyncIterable[Event[ResultT]]) -> ResultT:
    """Read the events of a request to their end: for a caller that wants the result only."""
    async for event in events:
        if isinstance(event, Final):
            return event.result
    raise ValueError("these events have no Final")


def _params(params: ParamsT | None, kind: type[ParamsT]) -> ParamsT:
    if params is None:
        return kind()
    if not isinstance(params, kind):
        raise InvalidRequest("params", f"must be {kind.__name__}, got {params!r}")
    return params
