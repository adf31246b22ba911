"""The tokenizer over HTTP: `/tokenize`, `/detokenize`, `/tokenizer_info`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field

from gsr_engine.errors import InvalidRequest
from gsr_engine.serving.http.chat import Turns, rendered
from gsr_engine.serving.http.errors import json_response
from gsr_engine.serving.http.fields import Body, Many, check_count
from gsr_engine.serving.http.guard import guarded_router
from gsr_engine.serving.http.refinement import asked_k
from gsr_engine.serving.http.state import Server


class TokenizeBody(Body):
    """A text as it is, or a conversation as the chat template renders it; vLLM's fields."""

    model: str | None = None
    prompt: str | None = None
    messages: Turns | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    return_token_strs: bool = False


class DetokenizeBody(Body):
    """Token ids."""

    model: str | None = None
    tokens: Many[int]


def token_routes(server: Server) -> APIRouter:
    """The routes of the tokenizer."""
    router = guarded_router(server)
    maker = server.engine.maker

    @router.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> Response:
        """The token ids of a text, or of a conversation."""
        asked_k(server, body.model, None)
        ids = await asyncio.to_thread(_tokens, server, body)
        told = {
            "count": len(ids),
            "max_model_len": maker.limits.max_model_len,
            "tokens": ids,
            "token_strs": maker.tokenizer.pieces(ids) if body.return_token_strs else None,
        }
        return json_response(told)

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> Response:
        """The text of token ids, special tokens included."""
        asked_k(server, body.model, None)
        check_count("tokens", len(body.tokens), maker.limits.max_model_len)
        ids = maker.limits.check_tokens("tokens", body.tokens)
        text = await asyncio.to_thread(maker.tokenizer.spelled, ids)
        return json_response({"prompt": text})

    @router.get("/tokenizer_info")
    async def tokenizer_info() -> Response:
        """The special tokens by name, and the chat template."""
        return json_response(maker.tokenizer.names)

    return router


def _tokens(server: Server, body: TokenizeBody) -> list[int]:
    """The ids; not for the event loop.

    Raises:
        InvalidRequest: there is neither a prompt nor messages, or there are both.
    """
    maker, added = server.engine.maker, body.add_special_tokens
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("prompt", "give either prompt or messages")
    if body.prompt is not None:
        maker.limits.check_text("prompt", body.prompt, maker.tokenizer.bytes_per_token)
        return maker.tokenizer.encode_prompt(body.prompt, add_special_tokens=added is None or added)
    if not body.add_generation_prompt:
        raise InvalidRequest("add_generation_prompt", "is not supported (only True)")
    variables = {**server.settings.default_chat_template_kwargs, **body.chat_template_kwargs}
    messages = [turn.message() for turn in body.messages or ()]
    return rendered(server, messages, variables, add_special_tokens=bool(added))
