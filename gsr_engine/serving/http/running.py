"""Runs the prompts of one HTTP request in the engine, and answers: as a whole, or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response

from gsr_engine.errors import InvalidRequest
from gsr_engine.outputs import TIMED_OUT
from gsr_engine.serving.events import Event, Final
from gsr_engine.serving.http import sse
from gsr_engine.serving.http.errors import Problem, json_response, problem_of
from gsr_engine.serving.http.guard import CLOSED, request_id
from gsr_engine.serving.http.instruments import Method
from gsr_engine.serving.http.instruments import Outcome as Ended
from gsr_engine.serving.http.narrator import Narrator, Outcome, Piece
from gsr_engine.serving.http.replies import Reply
from gsr_engine.serving.http.state import Server
from gsr_engine.serving.http.usage import counts, usage_of
from gsr_engine.serving.http.watch import Watch

News = tuple["Run", list[Piece], bool]
"""New output of a run, and whether it is the last."""
Pieces = AsyncGenerator[News, None]


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt for the engine.

    Attributes:
        asked: the prompt or the messages, for a log that wants texts.
        events: begins it; the events of `AsyncEngine`.
        narrator: tells them.
        method: how it is answered.
        streams: how many streams it begins with.
        choices: how many choices it has in the reply.
        given: whether its candidates were given.
        public: what a client calls a field of the engine's parameters.
    """

    asked: object
    events: Callable[[], AsyncGenerator[Event[Any], None]]
    narrator: Narrator[Any]
    method: Method
    streams: int
    choices: int
    given: bool = False
    public: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class Called:
    """How the client asked.

    Attributes:
        route: the path.
        stream: whether it wants a stream.
        hints: what routers said about the request.
    """

    route: str
    stream: bool
    hints: Mapping[str, str] = field(default_factory=dict)


async def answer(
    server: Server, request: Request, called: Called, jobs: Sequence[Job], reply: Reply
) -> Response:
    """Run the jobs and answer the request.

    Raises:
        Problem, GsrError: it cannot be answered; with a stream only before the stream begins.
        ClientGone: its client went away; nothing of it runs any more.
    """
    if server.health.refusing:
        raise Problem(503, "the server is shutting down", code="shutting_down")
    runs = [Run(server, request, called, job) for job in jobs]
    pieces = _merged(runs)
    if not called.stream:
        return json_response(await sse.unless_gone(request.receive, _whole(runs, pieces, reply)))
    # The engine takes the request, or refuses it with a status of its own, before the stream.
    first = await sse.unless_gone(request.receive, anext(pieces))
    events = _events(runs, first, pieces, reply)
    return sse.EventStream(events, server.settings.keep_alive_seconds)


class Run:
    """One job on its way through the engine, with the watch on it."""

    def __init__(self, server: Server, request: Request, called: Called, job: Job) -> None:
        self.job = job
        headers = request.headers
        self._watch = Watch(
            server.metrics,
            server.log,
            route=called.route,
            method=job.method,
            request_id=request_id(request),
            session_id=headers.get("x-session-id") or headers.get("x-correlation-id"),
            hints=called.hints,
            streams=job.streams,
            given=job.given,
        )

    @property
    def narrator(self) -> Narrator[Any]:
        """Tells its events."""
        return self.job.narrator

    @property
    def outcome(self) -> Outcome:
        """How it ended, with an answer.

        Raises:
            Problem: it has none.
        """
        outcome = self.narrator.outcome
        problem = Problem(503, "the request did not end") if outcome is None else _problem(outcome)
        if outcome is None or problem is not None:
            raise problem or Problem(503, "the request did not end")
        return outcome

    async def news(self) -> Pieces:
        """Its output as it comes; closing this aborts it. The watch ends with it, anyhow."""
        ended: Ended = "aborted"
        status, error = CLOSED, None
        try:
            async with aclosing(self.job.events()) as events:
                async for event in events:
                    self._watch.event(event)
                    yield self, self.narrator.read(event), isinstance(event, Final)
            ended, status = _ended(self.outcome), 200
        except InvalidRequest as refused:
            name = self.job.public(refused.field)
            message = str(refused).removeprefix(f"{refused.field}: ")
            ended, status, error = "refused", 400, f"{name}: {message}"
            raise Problem(400, error, name) from None
        except Exception as failed:
            problem = problem_of(failed)
            ended = "unavailable" if problem.status == 503 else "error"
            status, error = problem.status, problem.message
            raise problem from failed
        finally:
            outcome = self.narrator.outcome
            usage = None if outcome is None else outcome.usage
            details = None if outcome is None else outcome.costs
            texts = {"prompt": self.job.asked, "reply": self._replies()}
            self._watch.end(ended, status, usage, error=error, details=details, texts=texts)

    def _replies(self) -> list[str]:
        outcome = self.narrator.outcome
        return [] if outcome is None else [one.completion.text for one in outcome.choices]


def _ended(outcome: Outcome) -> Ended:
    if outcome.timed_out:
        return "timeout"
    cut = any(choice.completion.finish_reason != "stop" for choice in outcome.choices)
    return "length" if cut else "ok"


def _problem(outcome: Outcome) -> Problem | None:
    """What a client is told of a request that has no answer; None if it has one.

    NaN logits and unusable candidates are the request's: another replica would find them, too.
    """
    if outcome.aborted:
        return Problem(503, "the request was aborted", code="aborted")
    if outcome.error is None:
        return None
    if outcome.error.startswith(TIMED_OUT):
        return Problem(400, outcome.error, "timeout", "deadline_exceeded")
    return Problem(400, outcome.error, code="generation_failed")


async def _merged(runs: Sequence[Run]) -> Pieces:
    """The output of several runs as it comes; closing this aborts them all."""
    queue: asyncio.Queue[News | Exception | None] = asyncio.Queue(1)

    async def feed(run: Run) -> None:
        try:
            async with aclosing(run.news()) as pieces:
                async for news in pieces:
                    await queue.put(news)
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.ensure_future(feed(run)) for run in runs]
    try:
        unfinished = len(tasks)
        while unfinished:
            news = await queue.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                unfinished -= 1
            else:
                yield news
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _whole(runs: Sequence[Run], pieces: Pieces, reply: Reply) -> dict[str, Any]:
    """The body of a reply that is no stream."""
    async with aclosing(pieces):
        async for _, news, _ in pieces:
            for piece in news:
                reply.note(piece)
    outcomes = [run.outcome for run in runs]
    body = reply.body([choice for outcome in outcomes for choice in outcome.choices])
    if reply.options.token_ids:
        reply.add_prompts(body, [run.narrator.prompt_token_ids for run in runs])
    body["usage"] = usage_of(outcomes)
    if len(outcomes) == 1 and outcomes[0].gsr is not None:
        body["gsr"] = outcomes[0].gsr
    return body


async def _events(runs: Sequence[Run], first: News, pieces: Pieces, reply: Reply) -> sse.Events:
    """The events of a reply that is a stream; a failure is the last but one of them."""
    options = reply.options
    try:
        async with aclosing(_chunks(runs, first, pieces, reply)) as chunks:
            async for chunk in chunks:
                if options.usage_always:
                    chunk["usage"] = _usage_so_far(runs)
                elif options.usage_at_end:
                    chunk["usage"] = None
                yield sse.event(chunk)
        if options.usage_at_end:
            last = reply.chunk()
            last["usage"] = usage_of([run.outcome for run in runs])
            yield sse.event(last)
    except Exception as error:
        yield sse.event(problem_of(error).body())
    yield sse.DONE


async def _chunks(
    runs: Sequence[Run], first: News, pieces: Pieces, reply: Reply
) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks with choices."""
    untold = set(runs) if reply.options.token_ids else set()
    for opening in reply.opening(range(sum(run.job.choices for run in runs))):
        yield _with_prompt(reply, reply.chunk(opening), untold, runs[0])
    async with aclosing(pieces):
        run, news, last = first
        while True:
            for piece in news:
                choice = reply.piece(piece)
                if choice is not None:
                    chunk = reply.chunk(choice)
                    if piece.gsr is not None:
                        chunk["gsr"] = piece.gsr
                    yield _with_prompt(reply, chunk, untold, run)
            for chunk in _endings(run, reply) if last else ():
                yield chunk
            following = await anext(pieces, None)
            if following is None:
                return
            run, news, last = following


def _endings(run: Run, reply: Reply) -> Iterator[dict[str, Any]]:
    """The last chunks of a run that has ended with an answer; the last of all has its `gsr`."""
    outcome = run.narrator.outcome
    if outcome is None or _problem(outcome) is not None:
        return
    for number, choice in enumerate(outcome.choices, start=1):
        chunk = reply.chunk(reply.ending(choice))
        if outcome.gsr is not None and number == len(outcome.choices):
            told = {name: one for name, one in outcome.gsr.items() if name != "candidates"}
            chunk["gsr"] = {"phase": "refinement", "event": "done", **told}
        yield chunk


def _with_prompt(reply: Reply, chunk: dict[str, Any], untold: set[Run], run: Run) -> dict[str, Any]:
    """The chunk, with the run's prompt in the first one of them."""
    if run in untold:
        untold.remove(run)
        reply.add_prompts(chunk, [run.narrator.prompt_token_ids])
    return chunk


def _usage_so_far(runs: Sequence[Run]) -> dict[str, Any]:
    prompts = sum(len(run.narrator.prompt_token_ids) for run in runs)
    return counts(prompts, sum(run.narrator.generated for run in runs))
