"""Two replicas behind vLLM's router: everything passes, and one of them leaves without a loss."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import gsr_engine
from tests.helpers.serve_process import SOON, Process, eventually, free_port

pytestmark = pytest.mark.tools

CHAT = {"model": "nano:selfref@4", "messages": [{"role": "user", "content": "12*34"}]}
ADDED = {
    "no_stop_trim": False,
    "return_hidden_states": False,
    "include_reasoning": True,
    "separate_reasoning": True,
    "stream_reasoning": True,
    "continue_final_message": False,
    "skip_special_tokens": True,
    "ignore_eos": False,
    "logprobs": False,
}
"""What the router adds to every request for chat."""


def test_what_the_router_adds_is_taken_and_never_ignored(api: httpx.Client) -> None:
    body = {**CHAT, "max_tokens": 2, **ADDED}
    assert api.post("/v1/chat/completions", json=body).status_code == 200
    for field in ("no_stop_trim", "return_hidden_states", "include_reasoning", "stream_reasoning"):
        other = {**body, field: not ADDED[field]}
        refused = api.post("/v1/chat/completions", json=other)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == field


@contextmanager
def router(replicas: list[Process]) -> Iterator[str]:
    """The router in front of replicas, as the documents start it."""
    installed = Path(sys.executable).with_name("vllm-router")
    command = str(installed) if installed.exists() else shutil.which("vllm-router")
    if command is None:
        pytest.skip("vllm-router is not installed")
    port, metrics = str(free_port()), str(free_port())
    page = (Path(gsr_engine.__file__).parent / "serving" / "README.md").read_text()
    flags = re.findall(r"--policy .*", page)[0].split()
    here = ("--host", "127.0.0.1", "--port", port, "--prometheus-port", metrics)
    workers = ("--worker-urls", *(replica.url for replica in replicas))
    child = subprocess.Popen(
        [command, *here, *workers, *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        child.kill()
        child.wait()


def answered(url: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json={**CHAT, **more}, timeout=SOON)


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models", timeout=SOON).status_code == 200
    except httpx.TransportError:
        return False


def test_a_replica_leaves_and_no_request_fails(start: Callable[..., Process]) -> None:
    replicas = [start("--shutdown-delay", "5", "--vllm-metrics") for _ in range(2)]
    with router(replicas) as url:
        eventually(lambda: is_up(url))
        whole = answered(url, model="nano", max_tokens=8, gsr={"k": 3})
        assert whole.json()["usage"]["gsr"]["k"] == 3
        streamed = answered(url, max_tokens=8, stream=True, gsr={"stream": "all"})
        chunks = [line for line in streamed.text.splitlines() if line]
        assert chunks[-1] == "data: [DONE]"
        assert any("gsr" in json.loads(line.removeprefix("data: ")) for line in chunks[:-1])

        leaving = replicas[0]
        leaving.signal(signal.SIGTERM)
        statuses = []
        while leaving.child.poll() is None:
            statuses.append(answered(url, max_tokens=4).status_code)
        statuses += [answered(url, max_tokens=4).status_code for _ in range(5)]
        assert set(statuses) == {200}
        assert len(statuses) > 5
        assert leaving.status() == 0
