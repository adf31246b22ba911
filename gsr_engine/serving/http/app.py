"""The whole API, as an application or as a router for somebody else's."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from gsr_engine import __version__
from gsr_engine.errors import InvalidRequest
from gsr_engine.serving.async_engine import AsyncEngine
from gsr_engine.serving.http.auth import Keys
from gsr_engine.serving.http.chat import chat_routes
from gsr_engine.serving.http.completions import completion_routes
from gsr_engine.serving.http.errors import problem_of
from gsr_engine.serving.http.guard import request_id
from gsr_engine.serving.http.health import Health, health_routes
from gsr_engine.serving.http.metrics import Metrics, metrics_routes
from gsr_engine.serving.http.models import model_routes, openapi_route
from gsr_engine.serving.http.page.page import page_routes
from gsr_engine.serving.http.request_log import RequestLog
from gsr_engine.serving.http.settings import Settings
from gsr_engine.serving.http.state import Server
from gsr_engine.serving.http.thinking import Thinking
from gsr_engine.serving.http.tokens import token_routes

Auth = Keys | str | Iterable[str] | None
"""Keys, one key, several, or None for everybody."""


def create_app(
    engine: AsyncEngine,
    *,
    auth: Auth = None,
    registry: CollectorRegistry | None = None,
    settings: Settings | None = None,
) -> FastAPI:
    """The API of a running engine as an application.

    It has no lifespan of its own, because that of a mounted app does not run: whoever made the
    engine closes it. It installs no signal handler, no logging and no CORS.

    Args:
        engine: it must run; several apps may share one.
        auth: who may use it.
        registry: where its metrics are kept; None makes one, so that two engines of one process
            stay apart.
        settings: how it answers; default `Settings()`.

    Raises:
        InvalidRequest: a key is empty, the chat template does not read a default variable, or the
            registry has the metrics of another engine.
    """
    return app_of(make_server(engine, auth=auth, registry=registry, settings=settings))


def app_of(server: Server) -> FastAPI:
    """The application of a server."""
    app = FastAPI(
        title="gsr-engine",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # It would send clients, with their keys, to whatever scheme and host it believes to have.
        redirect_slashes=False,
    )
    app.include_router(server_routes(server))
    app.add_exception_handler(HTTPException, _as_openai_does)
    return app


def create_router(
    engine: AsyncEngine,
    *,
    auth: Auth = None,
    registry: CollectorRegistry | None = None,
    settings: Settings | None = None,
) -> APIRouter:
    """The routes of `create_app` for an application with a middleware of its own.

    Keys, errors and limits are the routes' own. What no route matches is the application's.
    Arguments and errors are as in `create_app`.
    """
    return server_routes(make_server(engine, auth=auth, registry=registry, settings=settings))


def make_server(
    engine: AsyncEngine,
    *,
    auth: Auth = None,
    registry: CollectorRegistry | None = None,
    settings: Settings | None = None,
) -> Server:
    """What the routes of one engine share; arguments and errors are as in `create_app`."""
    settings = settings or Settings()
    engine.maker.tokenizer.check_variables(settings.default_chat_template_kwargs)
    with suppress(InvalidRequest):  # no chat template, as every chat will be told
        Thinking.of(engine, {})  # it renders a prompt once, for all requests without variables
    return Server(
        engine=engine,
        settings=settings,
        keys=auth if isinstance(auth, Keys | None) else Keys(auth),
        metrics=Metrics(engine, settings.model_name, registry, vllm=settings.vllm_metrics),
        log=RequestLog(settings.log_text),
        health=Health(engine, settings.step_timeout),
        created=int(time.time()),
    )


def server_routes(server: Server) -> APIRouter:
    """All routes of a server."""
    router = APIRouter()
    router.include_router(model_routes(server))
    router.include_router(chat_routes(server))
    router.include_router(completion_routes(server))
    router.include_router(token_routes(server))
    router.include_router(health_routes(server.health))
    router.include_router(metrics_routes(server.metrics))
    router.include_router(openapi_route(server, router))
    if server.settings.page:
        router.include_router(page_routes(server))
    return router


async def _as_openai_does(request: Request, error: Exception) -> Response:
    """What no route matches, in the form of all other errors."""
    response = problem_of(error).response()
    response.headers["x-request-id"] = request_id(request)
    return response
