"""Requests made from the API's own description, right and wrong: none is answered by a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode

from gsr_engine import AsyncEngine
from gsr_engine.serving import Settings, create_app

LIMITS = Settings(model_name="nano", max_tokens=3, max_k=2, default_k=2, max_n=2)
ROUTES = {
    *("GET /v1/models", "GET /version", "GET /tokenizer_info", "GET /health", "GET /ready"),
    *("GET /metrics", "POST /tokenize", "POST /detokenize"),
    *("POST /v1/chat/completions", "POST /v1/completions"),
}


@pytest.fixture(scope="module")
def schema(nano: AsyncEngine) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(nano, settings=LIMITS))


def test_the_description_has_every_route(schema: Any) -> None:
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {f"{one.method.upper()} {one.path}" for one in operations} == ROUTES


@pytest.mark.parametrize(
    ("route", "mode"),
    [
        pytest.param(route, mode, id=f"{route} {mode.value}")
        for route in sorted(ROUTES)
        for mode in GenerationMode
        # GET takes nothing that could be wrong.
        if mode is GenerationMode.POSITIVE or route.startswith("POST")
    ],
)
def test_no_request_is_answered_by_a_5xx(schema: Any, route: str, mode: GenerationMode) -> None:
    method, path = route.split()
    cases = schema[path][method].as_strategy(generation_mode=mode)

    @given(case=cases)
    @settings(max_examples=50 if method == "POST" else 5, suppress_health_check=list(HealthCheck))
    def ask(case: Case) -> None:
        response = case.call()
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["message"]

    ask()
