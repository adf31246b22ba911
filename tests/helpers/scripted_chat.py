"""A server with the real page and a scripted chat: a test says what is streamed, and when."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from gsr_engine.serving.http.auth import Keys
from gsr_engine.serving.http.guard import guarded_router
from gsr_engine.serving.http.health import Health
from gsr_engine.serving.http.page.page import page_routes
from gsr_engine.serving.http.settings import Settings


@dataclass
class ScriptedChat:
    """What the server answers; a test changes it at any time.

    Attributes:
        name, layouts, answer_form: what `/v1/models` says of the model.
        script: what is streamed, in order; an event holds the stream until the test sets it.
        refusal: answered in place of a stream, if there is one.
        requests: the bodies of the requests that came.
        left: the client closed the connection before the stream was over.
    """

    name: str = "acme/large"
    layouts: tuple[str, ...] = ("linear",)
    answer_form: bool = True
    script: list[str | threading.Event] = field(default_factory=list)
    refusal: Response | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    def app(self, keys: Keys | None = None, prefix: str = "") -> FastAPI:
        """The application: the page, the models and the chat."""
        no_engine: Any = None  # nobody asks whether it is alive
        health = Health(no_engine, step_timeout=1.0)
        server: Any = SimpleNamespace(keys=keys, settings=Settings(), health=health)
        router = guarded_router(server)

        @router.get("/v1/models")
        async def models() -> dict[str, Any]:
            gsr = {"layouts": self.layouts, "answer_form": self.answer_form}
            gsr |= {"max_k": 64, "max_tokens": None}
            model = {"id": self.name, "max_model_len": 4096, "gsr": gsr}
            return {"object": "list", "data": [model]}

        @router.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            self.requests.append(await request.json())
            return self.refusal or StreamingResponse(self._stream(), media_type="text/event-stream")

        app = FastAPI()
        app.include_router(page_routes(server), prefix=prefix)
        app.include_router(router, prefix=prefix)
        return app

    async def _stream(self) -> AsyncIterator[str]:
        try:
            for part in self.script:
                if isinstance(part, str):
                    yield part
                    continue
                while not part.is_set():
                    await asyncio.sleep(0.01)
        except (asyncio.CancelledError, GeneratorExit):
            self.left.set()
            raise


def held(chat: ScriptedChat, after: int) -> threading.Event:
    """Holds the stream after so many parts, until the event is set."""
    gate = threading.Event()
    chat.script.insert(after, gate)
    return gate


def chunk(delta: dict[str, str], gsr: dict[str, Any] | None = None, **fields: Any) -> str:
    """One chunk of a chat's stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": fields.pop("finish_reason", None)}
    body = {"object": "chat.completion.chunk", "choices": [choice], **fields}
    return f"data: {json.dumps(body if gsr is None else {**body, 'gsr': gsr})}\n\n"


def candidate(index: int, text: str) -> str:
    """New text of a candidate."""
    delta = {"reasoning": text, "reasoning_content": text}
    gsr = {"phase": "candidate", "candidate": index, "event": "tokens"}
    return chunk(delta, gsr)


def candidate_done(index: int, answer: str | None, same_as: int | None, **changed: Any) -> str:
    """A candidate is finished."""
    ended = {"tokens": 9, "mean_logprob": -0.25, "finish_reason": "stop", **changed}
    gsr = {"phase": "candidate", "candidate": index, "event": "candidate_done"}
    return chunk({}, {**gsr, "answer": answer, "same_as": same_as, **ended})


def refinement_begins() -> str:
    """The model begins to read the candidates."""
    return chunk({}, {"phase": "refinement", "event": "phase_started", "round": 1})


def refinement_done(answer: str | None, same_as: int | None) -> str:
    """The refinement is finished."""
    gsr = {"phase": "refinement", "event": "done", "answer": answer, "same_as": same_as}
    ended = {"tokens": 7, "mean_logprob": -0.5, "finish_reason": "stop"}
    return chunk({}, {**gsr, **ended}, finish_reason="stop")


def costs() -> str:
    """The last chunk: what the request cost."""
    phases = {
        "candidate_prefill": {"tokens_computed": 1061, "tokens_reused": 3183, "seconds": 0.04},
        "candidate_decode": {"tokens_computed": 396, "tokens_reused": 0, "seconds": 2.31},
        "refine_prefill": {"tokens_computed": 438, "tokens_reused": 61, "seconds": 0.18},
        "refine_decode": {"tokens_computed": 97, "tokens_reused": 0, "seconds": 0.97},
    }
    gsr = {**phases, "k": 2, "k_effective": 2, "queue_seconds": 0.0, "peak_pages": 64}
    usage = {"prompt_tokens": 61, "completion_tokens": 497, "total_tokens": 558, "gsr": gsr}
    body = {"object": "chat.completion.chunk", "choices": [], "usage": usage}
    return f"data: {json.dumps(body)}\n\n"


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error object of the API."""
    error = {"message": message, "type": "any", "param": None, "code": None}
    return JSONResponse({"error": error}, status, headers)


BEGIN = chunk({"role": "assistant", "content": ""})
KEEP_ALIVE = ": keep-alive\n\n"
END = "data: [DONE]\n\n"
