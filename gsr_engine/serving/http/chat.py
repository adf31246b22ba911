"""`/v1/chat/completions`: answers a conversation, by one stream or by selfRef@k."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from gsr_engine.checkpoint.chat_template import Message, Variables
from gsr_engine.errors import InvalidRequest
from gsr_engine.params import MAX_TOP_LOGPROBS
from gsr_engine.serving.http.answering import answer
from gsr_engine.serving.http.fields import Body, Generating, Many, check_count, only, seconds_left
from gsr_engine.serving.http.guard import cache_salt, guarded_router
from gsr_engine.serving.http.narrator import Answers, PlainNarrator
from gsr_engine.serving.http.refinement import Wanted, asked_k, plain_params, refinement_job
from gsr_engine.serving.http.replies import ChatReply, Options
from gsr_engine.serving.http.runs import Called, Job
from gsr_engine.serving.http.state import Server
from gsr_engine.serving.http.thinking import Thinking

PATH = "/v1/chat/completions"
MOST_TURNS = 10_000
"""Most messages of a conversation: to render some is not free even where they are empty."""


class TextPart(Body):
    """A part of a content."""

    type: Literal["text"]
    text: str


class Turn(Body):
    """A message. `developer` is another word for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Many[TextPart]
    name: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[Any, only([])] = None

    def message(self) -> Message:
        """As the chat template gets it; parts of a content are lines."""
        content = self.content
        if not isinstance(content, str):
            content = "\n".join(part.text for part in content)
        role = "system" if self.role == "developer" else self.role
        others = self.model_dump(include={"name", "reasoning_content"}, exclude_none=True)
        return {"role": role, "content": content, **others}


Turns = Annotated[Many[Turn], Field(min_length=1, max_length=MOST_TURNS)]


class ChatBody(Generating):
    """A request for the next turn of a conversation."""

    messages: Turns
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] = 0
    add_special_tokens: bool = False
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)

    parallel_tool_calls: bool | None = None
    tools: Annotated[Any, only([])] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    functions: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only("none")] = None
    modalities: Annotated[Any, only(["text"])] = None
    add_generation_prompt: Annotated[Any, only(True)] = None
    continue_final_message: Annotated[Any, only(False)] = None

    def options(self) -> Options:
        """What the reply carries.

        Raises:
            InvalidRequest: two fields contradict each other.
        """
        self.check_options()
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs", "needs logprobs: true")
        return self.reply_options(self.top_logprobs if self.logprobs else None)


def chat_routes(server: Server) -> APIRouter:
    """`/v1/chat/completions`."""
    router = guarded_router(server)

    @router.post(PATH)
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        """Answer a conversation; with `gsr`, or as `<model>:selfref@k`, by refining k answers."""
        options, k = body.options(), asked_k(server, body.model, body.gsr)
        wanted = Wanted(
            timeout=seconds_left(body, request),
            cache_salt=cache_salt(server, request, body.cache_salt),
            variables={**server.settings.default_chat_template_kwargs, **body.chat_template_kwargs},
            logprobs=body.top_logprobs,
        )
        made = partial(_job, server, body, k, wanted)
        renders = k is not None or body.add_special_tokens or wanted.variables
        job = await asyncio.to_thread(made) if renders else made()
        called = Called(PATH, body.model, body.stream, options, body.hints())
        return await answer(server, request, called, [job], ChatReply)

    return router


def _job(server: Server, body: ChatBody, k: int | None, wanted: Wanted) -> Job:
    """The conversation as a job; it may render a prompt, which is not for the event loop."""
    messages = [turn.message() for turn in body.messages]
    if k is not None:
        if body.add_special_tokens:
            raise InvalidRequest("add_special_tokens", "is not for selfRef@k")
        return refinement_job(server, body, k, messages, wanted, chat=True)
    check_count("n", body.n, server.settings.max_n)
    params = plain_params(server, body, wanted)
    engine, variables = server.engine, wanted.variables
    how: dict[str, Any] = {"wait": False, "coalesce": body.coalesce}
    narrator = PlainNarrator(Answers(Thinking.of(engine, variables)))
    if body.add_special_tokens:
        prompt = rendered(server, messages, variables, add_special_tokens=True)
        events = partial(engine.generate, prompt, params, **how)
    else:
        events = partial(engine.chat, messages, params, chat_template_kwargs=variables, **how)
    return Job(events, narrator, "plain", body.n, body.n, client_name=_client_name)


def _client_name(field: str) -> str:
    """What a client calls a field of a plain answer."""
    return "messages" if field == "prompt" else field


def rendered(
    server: Server, messages: list[Message], variables: Variables, *, add_special_tokens: bool
) -> list[int]:
    """The ids of a conversation; what the tokenizer adds to a text comes before, if asked for.

    It is not for the event loop.

    Raises:
        InvalidRequest: the chat template refuses the messages or a variable.
    """
    maker = server.engine.maker
    added = maker.tokenizer.encode_prompt("") if add_special_tokens else []
    return added + maker.chat_prompt(messages, variables)
