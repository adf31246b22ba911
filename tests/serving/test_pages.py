"""What the pages print works as it is printed, and they name what the server says, no more."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

import gsr_engine
from gsr_engine import AsyncEngine
from gsr_engine.demo.report import NANO
from gsr_engine.serving import Settings, create_app
from gsr_engine.serving.http.fields import Refinement
from tests.helpers.live_server import stream

PAGES = Path(gsr_engine.__file__).parent / "serving"
SERVING, EMBEDDING, OPERATING = (
    (PAGES / name).read_text() for name in ("SERVING.md", "EMBEDDING.md", "OPERATING.md")
)
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "a1b1×₁2"}]
PRINTED_ADDRESS = "localhost:8000"


def section(page: str, title: str) -> str:
    """The text under a heading."""
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str, head: str) -> list[str]:
    """The rows of the table that begins with a head."""
    table = text.split(f"\n| {head} |")[1].split("\n\n")[0]
    return table.splitlines()[2:]


def first_cells(lines: list[str]) -> set[str]:
    """The names in the first column."""
    return {name for line in lines for name in re.findall(r"`([^`]+)`", line.split("|")[1])}


def keys(value: Any) -> set[str]:
    """The keys of an object and of those in it."""
    if not isinstance(value, dict):
        return set()
    return set(value).union(*map(keys, value.values()))


def code(page: str) -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    return block


def test_the_first_command_is_answered(address: str) -> None:
    path, body = re.findall(rf"curl {PRINTED_ADDRESS}(\S+) .*?-d '(.*?)'", SERVING, re.S)[0]
    answer = httpx.post(f"{address}{path}", json=json.loads(body), timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["gsr"]["k"] == 4


def test_openais_client_is_used_as_it_is_printed(address: str) -> None:
    printed = code(SERVING)
    assert printed.count("client.chat.completions.create(") == 2
    here = address.removeprefix("http://")
    exec(printed.replace(PRINTED_ADDRESS, here), {})  # noqa: S102


def test_a_host_embeds_engines_as_it_is_printed() -> None:
    printed, scope = code(EMBEDDING), dict[str, Any]()
    printed = printed.replace('"path-or-hub-id"', repr(str(NANO)))
    exec(re.sub(r"kv_cache_gib=\d+", "kv_cache_gib=0.05", printed), scope)  # noqa: S102
    try:
        client = TestClient(scope["host"])
        assert client.get("/llm/v1/models").status_code == 401
        key = {"Authorization": "Bearer key"}
        assert client.get("/llm/v1/models", headers=key).json()["data"][0]["id"] == "large"
        assert client.get("/draft/v1/models").status_code == 200
    finally:
        for name in ("large", "small"):
            asyncio.run(scope[name].close())


def test_every_route_is_named(api: httpx.Client) -> None:
    described = api.get("/openapi.json").json()["paths"]
    served = {f"{method.upper()} {path}" for path, named in described.items() for method in named}
    named = first_cells(rows(section(SERVING, "Routes"), "route"))
    assert named == served | {"GET /", "GET /openapi.json"}


def test_every_field_of_gsr_is_named() -> None:
    assert first_cells(rows(SERVING, "field of `gsr`")) == set(Refinement.model_fields)


def test_every_event_of_a_stream_is_named_with_what_it_has(api: httpx.Client) -> None:
    told: dict[str, set[str]] = {}
    for mode in ("final", "phases", "all"):
        gsr = {"k": 2, "widths": [2], "stream": mode}
        for chunk in stream(api, CHAT, messages=MESSAGES, gsr=gsr):
            if "gsr" in chunk:
                told.setdefault(chunk["gsr"]["event"], set()).update(chunk["gsr"])
    lines = rows(section(SERVING, "Streams"), "`event`")
    assert {line.split("`")[1] for line in lines} == set(told)
    for line in lines:
        event, *named = re.findall(r"`(\w+)`", line)
        others = told[event] - {"phase", "event"}
        if event == "done":
            others -= {"same_as", "mean_logprob", "tokens", "finish_reason"}  # named below it
        assert others == set(named), event


def test_every_count_of_a_usage_is_named(api: httpx.Client) -> None:
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`(.+?)`", section(SERVING, "Usage")))))
    for fields in ({}, {"gsr": {"k": 2}}):
        usage = api.post(CHAT, json={"messages": MESSAGES, **fields}).json()["usage"]
        assert keys(usage) <= named


def test_every_field_of_a_line_of_the_log_is_named(
    nano: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gsr_engine.requests")
    client = TestClient(create_app(nano, settings=Settings(log_text=True)))
    asked = {"messages": MESSAGES, "vllm_xargs": {"a": 1}}
    for header, fields in (("X-Session-ID", {}), ("X-Correlation-ID", {"gsr": {"k": 2}})):
        answer = client.post(CHAT, json={**asked, **fields}, headers={header: "ours"})
        assert answer.status_code == 200
        assert vars(caplog.records[-1])["gsr"]["session_id"] == "ours"
    too_long = {"prompt": [1] * 10_000}
    assert client.post("/v1/completions", json=too_long).status_code == 400
    logged = {name for record in caplog.records for name in getattr(record, "gsr", ())}
    assert logged == first_cells(rows(section(OPERATING, "The log"), "field of a line"))


def test_alerts_and_vllms_names_are_those_of_the_metrics(nano: AsyncEngine) -> None:
    client = TestClient(create_app(nano, settings=Settings(vllm_metrics=True)))
    assert client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 2}).status_code == 200
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    page = section(OPERATING, "Metrics")
    theirs = {name.removesuffix("_total") for name in re.findall(r"`(vllm:\w+)`", page)}
    assert theirs == {one.name for one in families if one.name.startswith("vllm:")}
    alerts = [line for line in page.splitlines() if line.startswith("    ")]
    assert len(alerts) == 4
    samples = {sample.name for family in families for sample in family.samples}
    assert set(re.findall(r"gsr_\w+", " ".join(alerts))) <= samples
