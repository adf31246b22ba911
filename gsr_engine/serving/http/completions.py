"""`/v1/completions`: completes texts or token ids as they are; refines a text as a problem."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from gsr_engine.errors import InvalidRequest
from gsr_engine.params import MAX_TOP_LOGPROBS
from gsr_engine.serving.http.answering import answer
from gsr_engine.serving.http.echo_narrator import EchoNarrator
from gsr_engine.serving.http.fields import Generating, Many, check_count, only, seconds_left
from gsr_engine.serving.http.guard import cache_salt, guarded_router
from gsr_engine.serving.http.narrator import Answers, PlainNarrator
from gsr_engine.serving.http.refinement import Wanted, asked_k, plain_params, refinement_job
from gsr_engine.serving.http.replies import Options, TextReply
from gsr_engine.serving.http.runs import Called, Job
from gsr_engine.serving.http.state import Server

PATH = "/v1/completions"
DEFAULT_TOKENS = 16
"""OpenAI's `max_tokens` of a completion; it is not that of a refined problem."""


class CompletionBody(Generating):
    """A request to go on with some texts."""

    prompt: str | Many[str] | Many[int] | Many[Many[int]]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    add_special_tokens: bool = True
    echo: bool = False

    suffix: Annotated[Any, only("")] = None
    best_of: Annotated[Any, only(1)] = None

    def options(self) -> Options:
        """What the reply carries.

        Raises:
            InvalidRequest: an option of a stream where none is asked for.
        """
        self.check_options()
        return self.reply_options(self.logprobs)

    def prompts(self) -> list[str | list[int]]:
        """The prompts, also if there is one.

        Raises:
            InvalidRequest: there is none.
        """
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if not prompt:
            raise InvalidRequest("prompt", "is empty")
        if isinstance(prompt[0], int):
            return [[token for token in prompt if isinstance(token, int)]]
        return [one for one in prompt if not isinstance(one, int)]


def completion_routes(server: Server) -> APIRouter:
    """`/v1/completions`."""
    router = guarded_router(server)

    @router.post(PATH)
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Go on with texts or token ids; with `gsr`, refine k solutions of each text."""
        options, k, prompts = body.options(), asked_k(server, body.model, body.gsr), body.prompts()
        check_count("prompt", len(prompts), server.engine.max_pending)
        wanted = Wanted(
            timeout=seconds_left(body, request),
            cache_salt=cache_salt(server, request, body.cache_salt),
            variables=server.settings.default_chat_template_kwargs,
            logprobs=body.logprobs or 0,
        )
        made = partial(_jobs, server, body, k, prompts, wanted)
        renders = k is not None or not body.add_special_tokens
        jobs = await asyncio.to_thread(made) if renders else made()
        called = Called(PATH, body.model, body.stream, options, body.hints())
        return await answer(server, request, called, jobs, TextReply)

    return router


def _jobs(
    server: Server,
    body: CompletionBody,
    k: int | None,
    prompts: list[str | list[int]],
    wanted: Wanted,
) -> list[Job]:
    """A job for each prompt; it may render or tokenise them, which is not for the event loop."""
    if k is None:
        check_count("n", body.n, server.settings.max_n)
        return [_plain(server, body, one, wanted, place) for place, one in enumerate(prompts)]
    if body.echo:
        raise InvalidRequest("echo", "is not for selfRef@k: its prompts are not what was sent")
    jobs = []
    for place, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise InvalidRequest("prompt", "must be text to be refined, got token ids")
        jobs.append(refinement_job(server, body, k, prompt, wanted, chat=False, number=place))
    return jobs


def _plain(
    server: Server, body: CompletionBody, prompt: str | list[int], wanted: Wanted, place: int
) -> Job:
    params, given = plain_params(server, body, wanted, default=DEFAULT_TOKENS), prompt
    if body.echo and body.logprobs is not None:
        params = replace(params, prompt_logprobs=body.logprobs)
    if isinstance(prompt, str) and not body.add_special_tokens:
        maker = server.engine.maker
        maker.limits.check_text("prompt", prompt, maker.tokenizer.bytes_per_token)
        prompt = maker.tokenizer.encode_prompt(prompt, add_special_tokens=False)
    narrator = _narrator(server, body, given, place)
    engine, coalesce = server.engine, body.coalesce
    events = partial(engine.generate, prompt, params, wait=False, coalesce=coalesce)
    return Job(events, narrator, "plain", body.n, body.n)


def _narrator(
    server: Server, body: CompletionBody, given: str | list[int], place: int
) -> PlainNarrator:
    answers = Answers(None, place * body.n)
    if not body.echo:
        return PlainNarrator(answers)
    tokenizer = server.engine.maker.tokenizer

    def spelled(token_ids: list[int]) -> str:
        return given if isinstance(given, str) else tokenizer.spelled(token_ids)

    return EchoNarrator(answers, body.n, spelled, scored=body.logprobs is not None)
