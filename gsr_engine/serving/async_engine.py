"""The asyncio front: many callers, one engine, one thread."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

from gsr_engine.checkpoint.chat_template import Message, Variables
from gsr_engine.checkpoint.tokenizer import SpecialTokens
from gsr_engine.engine import Engine
from gsr_engine.errors import EngineClosed, EngineForked, InvalidRequest, shown
from gsr_engine.outputs import GenerateResult, RefineResult
from gsr_engine.params import SamplingParams, SelfRefineParams
from gsr_engine.requests.maker import RequestMaker
from gsr_engine.serving.engine_loop import EngineLoop
from gsr_engine.serving.events import Coalesce, Event, Final
from gsr_engine.serving.mailbox import Mailbox
from gsr_engine.serving.observer import StreamingRequest
from gsr_engine.text.problem_prompts import Problem

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")


class AsyncEngine:
    """Serves the requests of any number of coroutines, in any event loops, from one engine thread.

    Once constructed, only this object may use the engine. It installs no signal handler, sets up no
    logging and holds no global state. So it can live inside another server, and several can live
    in one process. Use it as an async context manager, or `close` it. A fork of the process has no
    engine thread: everything but `close` raises EngineForked there.

    Requests are made (texts tokenised, lengths checked) in two more threads, one of them for short
    inputs. So a long input delays neither the engine nor short requests.

    `self_refine`, `generate` and `chat` give the events of one request: `Submitted`, then
    `PhaseStarted`, tokens and `CandidateDone` as they happen, and `Final` always last. Closing the
    generator, or cancelling the task that reads it, aborts the request and frees its pages. A
    `break` out of `async for` closes the generator only once Python collects it;
    `contextlib.aclosing` closes it at once.

    Back-pressure works both ways. At most `max_pending` requests are unfinished; further callers
    wait for room, first come, first served, but a long input comes once it is made. A timeout
    counts from the call, also while its request waits for room. A slow reader does not slow the
    engine down, and its buffer is bounded: new tokens of a stream join its one unread token event.
    With `coalesce` the tokens of a stream are two events, however fast its reader is.

    Attributes:
        loop: the thread that runs the engine; for instruments and tests.
        max_pending: most unfinished requests.

    Raises:
        InvalidRequest: `max_pending` is out of range.
    """

    def __init__(self, engine: Engine, *, max_pending: int = 256) -> None:
        if isinstance(max_pending, bool) or not isinstance(max_pending, int) or max_pending < 1:
            raise InvalidRequest(
                "max_pending", f"must be an integer above 0, got {shown(max_pending)}"
            )
        self._engine = engine
        self.max_pending = max_pending
        self.loop = EngineLoop(engine, max_pending)

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path, *, max_pending: int = 256, **options: Any
    ) -> Self:
        """Load a checkpoint as `Engine.from_pretrained` does, with its options and errors.

        It blocks while it loads: inside a running event loop call it through `asyncio.to_thread`.
        """
        return cls(Engine.from_pretrained(path_or_id, **options), max_pending=max_pending)

    @property
    def maker(self) -> RequestMaker:
        """The engine's tokenizer, prompts and limits; its methods work in any thread."""
        return self._engine

    def self_refine(
        self,
        problem: Problem,
        params: SelfRefineParams | None = None,
        *,
        candidates: Sequence[str | list[int]] | None = None,
        request_id: str | None = None,
        wait: bool = True,
        coalesce: Coalesce = "none",
    ) -> AsyncGenerator[Event[RefineResult], None]:
        """The events of selfRef@k of one problem, the same as `Engine.self_refine([problem])`.

        The request starts when the first event is awaited. Given candidates are reported at once,
        as if they had been generated.

        Args:
            problem: its text, or messages of which the last is the user's and states it.
            params: default `SelfRefineParams()`.
            candidates: texts or token ids, to be refined instead of generated candidates.
            request_id: a name for `abort`, unique among unfinished requests. None makes one, which
                `Submitted` reports.
            wait: whether to wait for room; if False, `QueueFull` is raised if there is no room.
            coalesce: the rounds whose streams are told in two pieces: `none`, `inner` (all but the
                last round), or `all`. The first piece are a stream's first tokens, when they come;
                the second is all the rest, when the stream ends. The contents, and the times of
                first and last tokens, are the same; a stream that runs costs its host next to
                nothing. It is for a reader that shows no tokens in between.

        Raises:
            InvalidRequest: the request cannot be served; nothing was submitted.
            QueueFull: `max_pending` requests are unfinished, and `wait` is False.
            EngineClosed: the engine is closed or being drained, or its thread died (the reason is
                the exception's cause).
        """

        def make() -> StreamingRequest:
            mine = _params(params, SelfRefineParams)
            return self._engine.new_self_refine(problem, mine, candidates=candidates)

        return self._events(make, _size(problem, candidates), request_id, wait, coalesce)

    def generate(
        self,
        prompt: str | list[int],
        params: SamplingParams | None = None,
        *,
        special_tokens: SpecialTokens = "parse",
        request_id: str | None = None,
        wait: bool = True,
        coalesce: Coalesce = "none",
    ) -> AsyncGenerator[Event[GenerateResult], None]:
        """The events of completing one prompt, the same as `Engine.generate([prompt])`.

        The n streams are reported as candidates; everything else is as in `self_refine`.
        """

        def make() -> StreamingRequest:
            mine = _params(params, SamplingParams)
            return self._engine.new_generate(prompt, mine, special_tokens=special_tokens)

        return self._events(make, _size(prompt), request_id, wait, coalesce)

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        chat_template_kwargs: Variables | None = None,
        request_id: str | None = None,
        wait: bool = True,
        coalesce: Coalesce = "none",
    ) -> AsyncGenerator[Event[GenerateResult], None]:
        """The events of answering one conversation, the same as `Engine.chat([messages])`.

        The n streams are reported as candidates; everything else is as in `self_refine`.
        """

        def make() -> StreamingRequest:
            prompt = self._engine.chat_prompt(messages, chat_template_kwargs)
            return self._engine.new_generate(prompt, _params(params, SamplingParams))

        return self._events(make, _size(messages), request_id, wait, coalesce)

    async def _events(
        self,
        make: Callable[[], StreamingRequest],
        size: int,
        request_id: str | None,
        wait: bool,
        coalesce: Coalesce,
    ) -> AsyncGenerator[Event[Any], None]:
        name = secrets.token_hex(8) if request_id is None else request_id
        if not isinstance(name, str) or not name:
            raise InvalidRequest("request_id", f"must be text, got {shown(request_id)}")
        if coalesce not in get_args(Coalesce):
            raise InvalidRequest("coalesce", f"must be none, inner or all, got {shown(coalesce)}")
        mailbox, asked_at = Mailbox(), self._engine.clock()

        def work() -> Future[None]:
            # The maker's thread hands it on, so that requests are taken in the order of making.
            request = make()
            request.deadlines.count_from(asked_at)
            return self.loop.call(partial(self.loop.open, name, request, mailbox, wait, coalesce))

        try:
            opened = await asyncio.wrap_future(self.loop.make(size, work))
            await asyncio.wrap_future(opened)
            event: Event[Any] | None = None
            while not isinstance(event, Final):
                event = await mailbox.get()
                yield event
        finally:
            mailbox.left = True  # it may still be made
            with suppress(EngineClosed, EngineForked):
                self.loop.call(partial(self.loop.discard, name, mailbox))

    async def abort(self, request_id: str) -> bool:
        """End a request at once: its reader gets `Final` with the tokens so far.

        Returns False if no unfinished request has this id. Its pages are free when this returns.

        Raises:
            EngineClosed: as in `self_refine`.
        """
        return await self._in_thread(partial(self.loop.abort, request_id))

    def step_seconds(self) -> float:
        """Seconds for which the present step has been running, 0 if none runs.

        It waits for nothing, and any thread may ask. So it tells a device that hangs from an engine
        that is idle, which `stats` cannot: that waits for the end of the step.

        Raises:
            EngineForked: this process is a fork of the engine's.
        """
        return self.loop.step_seconds()

    async def stats(self) -> dict[str, Any]:
        """`Engine.stats` between two steps, without requests that wait for room.

        Raises:
            EngineClosed: as in `self_refine`.
        """
        return await self._in_thread(self._engine.stats)

    async def check(self) -> None:
        """`Engine.check` between two steps. Raises PoolCorrupted, or EngineClosed."""
        await self._in_thread(self._engine.check)

    async def _in_thread(self, work: Callable[[], ResultT]) -> ResultT:
        return await asyncio.wrap_future(self.loop.call(work))

    async def drain(self) -> None:
        """Take no more requests, and wait until all taken requests are finished.

        From this call on new requests are refused with `EngineClosed`. Requests that wait for room
        count as taken. Unread events can still be read later.

        Raises:
            EngineClosed: as in `self_refine`.
        """
        await asyncio.wrap_future(await self._in_thread(self.loop.drain))

    async def close(self) -> None:
        """Abort unfinished requests, end the threads and close the engine.

        Readers still get their unread events and `Final`; a `drain` that waits returns. Any number
        of tasks may close it, also at the same time and after its thread died: each returns once it
        is closed. A process that ends without closing it keeps its exit status; it waits for the
        step that runs. In a fork of its process it does nothing.
        """
        if not self.loop.home.is_present:
            return
        self.loop.close()
        await asyncio.wrap_future(self.loop.ended)
        self.loop.join()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def final_result(events: AsyncIterable[Event[ResultT]]) -> ResultT:
    """The result of a request, for a caller that needs no other event.

    Raises:
        ValueError: the events end without `Final`.
    """
    async for event in events:
        if isinstance(event, Final):
            return event.result
    raise ValueError("these events have no Final")


def _params(params: ParamsT | None, kind: type[ParamsT]) -> ParamsT:
    if params is None:
        return kind()
    if not isinstance(params, kind):
        raise InvalidRequest("params", f"must be {kind.__name__}, got {shown(params)}")
    return params


def _size(*inputs: object) -> int:
    """How many characters or token ids the inputs have: texts, ids, messages, lists of these."""
    size = 0
    for one in inputs:
        parts = one if isinstance(one, list | tuple) else [one]
        parts = [p.get("content") if isinstance(p, dict) else p for p in parts]
        size += sum(len(part) if isinstance(part, str | list) else 1 for part in parts)
    return size
