"""Answers one HTTP request: runs its prompts, and replies as a whole or as a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response

from gsr_engine.serving.http import sse
from gsr_engine.serving.http.errors import json_response, problem_of, shutting_down
from gsr_engine.serving.http.guard import request_id
from gsr_engine.serving.http.replies import Reply
from gsr_engine.serving.http.runs import AllNews, Called, Job, News, Run, merged, problem_with
from gsr_engine.serving.http.state import Server
from gsr_engine.serving.http.usage import counts, usage_of


async def answer(
    server: Server, request: Request, called: Called, jobs: Sequence[Job], form: type[Reply]
) -> Response:
    """Run the jobs and answer the request, in the form of one of the APIs.

    Raises:
        Problem, GsrError: it cannot be answered; with a stream only before the stream begins.
        ClientGone: its client went away; nothing of it runs any more.
    """
    if server.health.refusing:
        raise shutting_down()
    reply = form(
        name=f"{form.prefix}-{request_id(request)}",
        model=called.model or server.name,
        created=int(time.time()),
        tokenizer=server.engine.maker.tokenizer,
        options=called.options,
    )
    runs = [Run(server, request, called, job) for job in jobs]
    source = merged(runs)
    if not called.stream:
        return json_response(await sse.unless_gone(request.receive, _whole(runs, source, reply)))
    # The engine takes every prompt, or refuses one with a status of its own, before the stream.
    begun = await sse.unless_gone(request.receive, _begun(runs, source))
    events = _events(runs, begun, source, reply)
    return sse.EventStream(events, source, server.settings.keep_alive_seconds)


async def _begun(runs: Sequence[Run], source: AllNews) -> list[News]:
    """The news up to the first of every run."""
    begun: list[News] = []
    while len({news.run for news in begun}) < len(runs):
        begun.append(await anext(source))
    return begun


async def _whole(runs: Sequence[Run], source: AllNews, reply: Reply) -> dict[str, Any]:
    """The body of a reply that is no stream."""
    async with aclosing(source):
        async for news in source:
            for piece in news.pieces:
                reply.note(piece)
    outcomes = [run.outcome for run in runs]
    body = reply.body([choice for outcome in outcomes for choice in outcome.choices])
    if reply.options.token_ids:
        reply.add_prompts(body, [run.narrator.prompt_token_ids for run in runs])
    body["usage"] = usage_of(outcomes)
    if len(outcomes) == 1 and outcomes[0].gsr is not None:
        body["gsr"] = outcomes[0].gsr
    return body


async def _events(
    runs: Sequence[Run], begun: list[News], source: AllNews, reply: Reply
) -> sse.Events:
    """The events of a reply that is a stream; a failure is the last but one of them."""
    options = reply.options
    try:
        async with aclosing(_chunks(runs, begun, source, reply)) as chunks:
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
    runs: Sequence[Run], begun: list[News], source: AllNews, reply: Reply
) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks with choices."""
    untold = set(runs) if reply.options.token_ids else set()
    for opening in reply.opening(range(sum(run.job.choices for run in runs))):
        yield _with_prompt(reply, reply.chunk(opening), untold, runs[0])
    async with aclosing(source):
        async for run, pieces, last in _chained(begun, source):
            for piece in pieces:
                choice = reply.piece(piece)
                if choice is not None:
                    chunk = reply.chunk(choice)
                    if piece.gsr is not None:
                        chunk["gsr"] = piece.gsr
                    yield _with_prompt(reply, chunk, untold, run)
            for chunk in _endings(run, reply) if last else ():
                yield chunk


async def _chained(begun: list[News], source: AllNews) -> AllNews:
    for news in begun:
        yield news
    async for news in source:
        yield news


def _endings(run: Run, reply: Reply) -> Iterator[dict[str, Any]]:
    """The last chunks of a run that has ended with an answer; the last of all has its `gsr`."""
    outcome = run.narrator.outcome
    if outcome is None or problem_with(outcome, given=run.job.given) is not None:
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
