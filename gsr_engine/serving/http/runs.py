"""The prompts of one HTTP request on their way through the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastapi import Request

from gsr_engine.errors import InvalidRequest
from gsr_engine.outputs import NOT_FINITE, TIMED_OUT, TOO_FEW_USABLE
from gsr_engine.serving.events import Event, Final
from gsr_engine.serving.http.errors import Problem, problem_of, renamed
from gsr_engine.serving.http.guard import CLOSED, request_id
from gsr_engine.serving.http.instruments import Ending, Method
from gsr_engine.serving.http.narrator import Narrator, Outcome, Piece
from gsr_engine.serving.http.replies import Options
from gsr_engine.serving.http.state import Server
from gsr_engine.serving.http.watch import Watch

_LOGGED = 200
"""Characters of a session's id that the log has, as of hints."""
ENGINE_FAILED = "engine_failed"
"""The code of the error of a request in whose step the engine failed."""


class News(NamedTuple):
    """New output of a run, and whether it is the last."""

    run: Run
    pieces: list[Piece]
    last: bool


AllNews = AsyncGenerator[News, None]


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt for the engine.

    Attributes:
        events: begins it; the events of `AsyncEngine`.
        narrator: tells them.
        method: how it is answered.
        streams: how many streams it begins with.
        choices: how many choices it has in the reply.
        given: whether its candidates were given.
        client_name: the name by which a client knows a field of the engine's parameters.
    """

    events: Callable[[], AsyncGenerator[Event[Any], None]]
    narrator: Narrator[Any]
    method: Method
    streams: int
    choices: int
    given: bool = False
    client_name: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class Called:
    """How the client asked.

    Attributes:
        route: the path.
        model: the id by which it called the model, or None.
        stream: whether it wants a stream.
        options: what it wants besides text.
        hints: what routers said about the request.
    """

    route: str
    model: str | None
    stream: bool
    options: Options
    hints: Mapping[str, str]


class Run:
    """One job on its way through the engine, with the watch on it."""

    def __init__(self, server: Server, request: Request, called: Called, job: Job) -> None:
        self.job = job
        self._server = server
        headers = request.headers
        session_id = headers.get("x-session-id") or headers.get("x-correlation-id") or ""
        self._watch = Watch(
            server.metrics,
            server.log,
            route=called.route,
            method=job.method,
            request_id=request_id(request),
            session_id=session_id[:_LOGGED] or None,
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
        if outcome is None:
            raise Problem(503, "the request did not end")
        problem = problem_with(outcome, given=self.job.given)
        if problem is not None:
            raise problem
        return outcome

    async def news(self) -> AllNews:
        """Its output as it comes; closing this aborts it. The watch ends with it, however it ends.

        Raises:
            InvalidRequest: the engine refuses it; the field is called as the client calls it.
            Problem: it has no answer.
        """
        ended: Ending = "aborted"
        status, error = CLOSED, None
        try:
            async with aclosing(self.job.events()) as events:
                async for event in events:
                    self._watch.event(event)
                    yield News(self, self.narrator.read(event), isinstance(event, Final))
            ended, status = _ended(self.outcome), 200
        except InvalidRequest as refused:
            told = renamed(refused, self.job.client_name(refused.field))
            ended, status, error = "refused", 400, str(told)
            raise told from None
        except Exception as failed:
            problem = problem_of(failed)
            unavailable = problem.status == 503 and problem.code != ENGINE_FAILED
            ended = "unavailable" if unavailable else "error"
            status, error = problem.status, problem.message
            raise problem from failed
        finally:
            outcome = self.narrator.outcome
            if outcome is None:
                self._watch.end(ended, status, error=error)
            else:
                costs, texts = outcome.costs, self._texts(outcome)
                self._watch.end(
                    ended, status, outcome.usage, error=error, details=costs, texts=texts
                )

    def _texts(self, outcome: Outcome) -> dict[str, Any]:
        """The prompt as the model got it, and the answers, if the log wants them."""
        if not self._server.log.text:
            return {}
        prompt = self._server.engine.maker.tokenizer.spelled(list(self.narrator.prompt_token_ids))
        return {"prompt": prompt, "texts": [one.completion.text for one in outcome.choices]}


def _ended(outcome: Outcome) -> Ending:
    if outcome.timed_out:
        return "timeout"
    cut = any(choice.completion.finish_reason != "stop" for choice in outcome.choices)
    return "length" if cut else "ok"


def problem_with(outcome: Outcome, *, given: bool) -> Problem | None:
    """What a client is told of a request that has no answer; None if it has one.

    NaN logits and unusable candidates are the request's: another replica would find them, too. Any
    other error is that of a step, in which it may have been in bad company. Its text is for the
    log alone. `given` says whether the candidates are the request's.
    """
    if outcome.aborted:
        return Problem(503, "the request was aborted", code="aborted")
    if outcome.error is None:
        return None
    if outcome.error.startswith(TIMED_OUT):
        return Problem(400, outcome.error, "timeout", "deadline_exceeded")
    if outcome.error == NOT_FINITE or TOO_FEW_USABLE in outcome.error:
        param = "gsr.candidates" if given and outcome.error != NOT_FINITE else None
        return Problem(400, outcome.error, param, code="generation_failed")
    return Problem(503, "the engine failed in a step of this request", code=ENGINE_FAILED)


def merged(runs: Sequence[Run]) -> AllNews:
    """The output of some runs as it comes; closing this aborts them all."""
    return runs[0].news() if len(runs) == 1 else _merged(runs)


async def _merged(runs: Sequence[Run]) -> AllNews:
    queue: asyncio.Queue[News | Exception | None] = asyncio.Queue(1)

    async def feed(run: Run) -> None:
        try:
            async with aclosing(run.news()) as source:
                async for news in source:
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
