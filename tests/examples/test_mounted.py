"""Two models in one process, one mounted, one as a router, beside a route of the host."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families as text_metrics

from gsr_engine.demo.puzzles import sample_puzzles
from tests.examples.mounted import make_app
from tests.helpers.live_server import events, live, until

MESSAGES = [{"role": "user", "content": sample_puzzles("test", 3, 2)[0].problem}]
KEY = {"Authorization": "Bearer secret"}


def requests_of(client: httpx.Client, path: str) -> dict[str, float]:
    """Finished requests by model."""
    counts: dict[str, float] = {}
    for family in text_metrics(client.get(path).text):
        for sample in family.samples:
            if sample.name == "gsr_requests_total":
                name = sample.labels["model_name"]
                counts[name] = counts.get(name, 0) + sample.value
    return counts


def test_two_models_live_in_a_host_and_do_not_mix() -> None:
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    logged, others = list(logging.getLogger().handlers), set(threading.enumerate())
    with live(make_app(), lifespan="on") as url, httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/hello").json() == {"hello": "from the host"}
        for prefix, name, headers in (("/llm", "writer", {}), ("/draft", "drafter", KEY)):
            assert client.get(f"{prefix}/ready").status_code == 200
            listed = client.get(f"{prefix}/v1/models", headers=headers).json()["data"]
            assert [one["id"] for one in listed] == [name, f"{name}:selfref@4"]
            asked: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 9, "model": name}
            path = f"{prefix}/v1/chat/completions"
            body = client.post(path, json=asked, headers=headers)
            assert body.status_code == 200, body.text
            assert "x-host-seconds" in body.headers
            with client.stream(
                "POST", path, json={**asked, "stream": True}, headers=headers
            ) as response:
                assert len(list(events(response))) > 3
            described = client.get(f"{prefix}/openapi.json", headers=headers).json()
            assert "/v1/chat/completions" in str(described["paths"])
            assert client.get(f"{prefix}/", headers=headers).status_code == 200
            other = client.post(path, json={**asked, "model": "nope"}, headers=headers)
            assert other.status_code == 404
            assert other.json()["error"]["param"] == "model"
        assert client.get("/draft/v1/models").status_code == 401
        assert client.get("/hello").status_code == 200  # the key is of these routes alone
        assert requests_of(client, "/llm/metrics") == {"writer": 2}
        assert requests_of(client, "/draft/metrics") == {"drafter": 2}
    assert handlers == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    assert logging.getLogger().handlers == logged
    until(lambda: not [t for t in set(threading.enumerate()) - others if t.name.startswith("gsr-")])


def test_a_client_that_leaves_behind_a_middleware_is_noticed() -> None:
    endless = {"messages": MESSAGES, "ignore_eos": True, "stream": True}
    with live(make_app(), lifespan="on") as url, httpx.Client(base_url=url, timeout=60) as client:
        for path, headers in (("/llm", {}), ("/draft", KEY)):
            with client.stream(
                "POST", f"{path}/v1/chat/completions", json=endless, headers=headers
            ) as response:
                next(response.iter_lines())
            until(lambda path=path: running(client, f"{path}/metrics") == 0)  # type: ignore[misc]
            outcomes = client.get(f"{path}/metrics").text
            assert 'outcome="aborted"' in outcomes


def running(client: httpx.Client, path: str) -> float:
    return sum(
        sample.value
        for family in text_metrics(client.get(path).text)
        for sample in family.samples
        if sample.name == "gsr_requests_running"
    )
