"""What is served: the model's ids, the version, the description of the API."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.openapi.utils import get_openapi

from gsr_engine import __version__
from gsr_engine.serving.http.errors import json_response
from gsr_engine.serving.http.guard import guarded_router
from gsr_engine.serving.http.state import Server

OWNER = "gsr-engine"


def model_routes(server: Server) -> APIRouter:
    """`/v1/models` and `/version`."""
    router = guarded_router(server)

    @router.get("/v1/models")
    async def list_models() -> Response:
        """The model, and its id with which every request is a selfRef@k."""
        ids = [server.name, f"{server.name}:selfref@{server.settings.default_k}"]
        return json_response({"object": "list", "data": [_model(server, one) for one in ids]})

    @router.get("/version")
    async def version() -> Response:
        """The version of the engine."""
        return json_response({"version": __version__})

    return router


def _model(server: Server, name: str) -> dict[str, Any]:
    trained = server.engine.maker.gsr
    return {
        "id": name,
        "object": "model",
        "created": server.created,
        "owned_by": OWNER,
        "root": server.name,
        "parent": None if name == server.name else server.name,
        "max_model_len": server.engine.maker.limits.max_model_len,
        "gsr": {
            "layouts": trained.layouts,
            "answer_form": trained.names_template and trained.template.answer_form,
            "max_k": server.settings.max_k,
            "max_tokens": server.settings.max_tokens,
        },
    }


def openapi_route(server: Server, described: APIRouter) -> APIRouter:
    """`/openapi.json`: the description of other routes."""
    router = guarded_router(server)

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        """The description of this API."""
        root = request.scope.get("root_path", "")
        return json_response(
            get_openapi(
                title="gsr-engine",
                version=__version__,
                routes=described.routes,
                servers=[{"url": root}] if root else None,
            )
        )

    return router
