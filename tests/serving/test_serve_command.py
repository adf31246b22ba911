"""`gsr serve` as a process: when it listens, what signals do, what its status says."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.serve_process import SOON, Process, eventually, free_port

pytestmark = pytest.mark.slow

LONG = {"prompt": "12*34", "max_tokens": 1900, "ignore_eos": True, "temperature": 1.0}
SHORT = {"prompt": "12*34", "max_tokens": 2}


def post(url: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json=body, timeout=SOON)


def is_ready(url: str) -> bool:
    return httpx.get(f"{url}/ready", timeout=SOON).status_code == 200


def running(url: str, count: int) -> bool:
    metrics = httpx.get(f"{url}/metrics", timeout=SOON).text
    return f'gsr_requests_running{{model_name="nano"}} {count}.0' in metrics


TAKES_ITS_TIME = """
import time
from gsr_engine.schedule.scheduler import Scheduler

plan = Scheduler.plan

def slowly(self):
    time.sleep(0.006)
    return plan(self)

Scheduler.plan = slowly
"""


def test_sigterm_drains_in_stages(start: Callable[..., Process]) -> None:
    # LONG takes 11 s or more, so it is still in flight when requests are refused.
    flags = ("--shutdown-delay", "6", "--shutdown-timeout", "60")
    process = start(*flags, before=TAKES_ITS_TIME)
    url = process.url
    assert is_ready(url)
    with ThreadPoolExecutor() as pool:
        long = pool.submit(post, url, LONG)
        eventually(lambda: running(url, 1), process)
        process.signal(signal.SIGTERM)
        eventually(lambda: not is_ready(url), process)
        # Clients that have not heard of it are still answered, then refused, and may try elsewhere.
        assert httpx.get(f"{url}/health").status_code == 200
        assert post(url, SHORT).status_code == 200
        process.until("requests are refused")
        refused = post(url, SHORT)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        answer = long.result()
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == LONG["max_tokens"]
    assert process.status() == 0


def test_what_is_in_flight_after_the_timeout_is_aborted(
    start: Callable[..., Process],
) -> None:
    process = start("--shutdown-delay", "0", "--shutdown-timeout", "0.1")
    url = process.url
    with httpx.stream("POST", f"{url}/v1/completions", json={**LONG, "stream": True}) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines).removeprefix("data: "))
        process.signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    # A client that sends it again gets a whole answer from another replica.
    assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "aborted"
    assert process.status() == 0


def test_a_request_that_is_still_arriving_is_refused_in_time(start: Callable[..., Process]) -> None:
    process = start("--shutdown-delay", "0", "--shutdown-timeout", "0.1")
    host, port = process.url.removeprefix("http://").split(":")
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 800\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=SOON) as client:
        client.sendall(head + b'{"prompt"')
        assert is_ready(process.url)  # it came later, so the first one is being read by now
        process.signal(signal.SIGTERM)
        told = b"".join(iter(lambda: client.recv(65536), b"")).decode().lower()
    assert told.startswith("http/1.1 503 ")
    assert "\r\nretry-after: 1\r\n" in told
    assert '"code":"shutting_down"' in told
    assert process.status() == 0
    assert not any("ERROR" in line or "Traceback" in line for line in process.log)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(
    start: Callable[..., Process], second: signal.Signals
) -> None:
    process = start("--shutdown-delay", "600")
    url = process.url
    process.signal(signal.SIGTERM)
    eventually(lambda: not is_ready(url), process)
    process.signal(second)
    assert process.status() == 128 + second


def test_ctrl_c_does_not_wait_for_routers(start: Callable[..., Process]) -> None:
    process = start("--shutdown-delay", "600")
    assert process.url
    process.signal(signal.SIGINT)
    assert process.status() == 0


LOADS_FOR_EVER = """
import os, time
from gsr_engine.serving.async_engine import AsyncEngine

def load(*_, **__):
    os.write(2, b"loading\\n")
    time.sleep(600)

AsyncEngine.from_pretrained = load
"""


def test_it_listens_once_the_model_is_loaded_and_can_be_ended_before(
    start: Callable[..., Process],
) -> None:
    port = free_port()
    process = start("--port", str(port), before=LOADS_FOR_EVER)
    process.until("loading")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/ready")
    process.signal(signal.SIGTERM)
    assert process.status() == 128 + signal.SIGTERM


def test_an_address_that_is_taken_is_refused_before_the_model_is_loaded(
    start: Callable[..., Process],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("--port", str(port), before=LOADS_FOR_EVER)
        assert process.status() == 2
    (line,) = process.log
    assert line.startswith(f"gsr: port: cannot listen on 127.0.0.1:{port}: ")


DIES = """
from gsr_engine.schedule.scheduler import Scheduler

def plan(self):
    raise SystemError("a bug")

Scheduler.plan = plan
"""


def test_the_death_of_the_engine_is_the_end_of_the_process(start: Callable[..., Process]) -> None:
    process = start(before=DIES)
    answer = post(process.url, SHORT)
    assert answer.status_code == 503  # another replica may answer
    assert "a bug" not in answer.text
    assert process.status() == 1
    assert "a bug" in "".join(process.log)


HANGS = """
import time
from gsr_engine.schedule.scheduler import Scheduler

Scheduler.plan = lambda _: time.sleep(600)
"""


def test_a_step_that_hangs_is_noticed_and_keeps_nobody(start: Callable[..., Process]) -> None:
    flags = ("--step-timeout", "0.5", "--shutdown-delay", "0", "--shutdown-timeout", "0.1")
    process = start(*flags, before=HANGS)
    url = process.url
    assert httpx.get(f"{url}/health", timeout=SOON).status_code == 200
    with ThreadPoolExecutor() as pool:
        lost = pool.submit(post, url, SHORT)
        eventually(lambda: httpx.get(f"{url}/health", timeout=SOON).status_code == 503, process)
        assert not is_ready(url)
        assert httpx.get(f"{url}/metrics", timeout=SOON).status_code == 200
        process.signal(signal.SIGTERM)
        assert process.status() == 1
        with pytest.raises(httpx.TransportError):
            lost.result()


def test_whoever_is_let_in_from_everywhere_is_said(start: Callable[..., Process]) -> None:
    start("--host", "0.0.0.0", "--log-format", "json").until('"no API key: whoever reaches')  # noqa: S104


def test_one_line_for_each_request_and_no_text_in_it(start: Callable[..., Process]) -> None:
    process = start("--log-format", "json")
    url = process.url
    headers = {"X-Request-ID": "mine", "X-Session-ID": "ours"}
    body = {**SHORT, "prompt": "a1b1", "vllm_xargs": {"kind": "batch"}}
    answer = httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=SOON)
    assert answer.headers["x-request-id"] == "mine"
    said = json.loads(process.until(r'\{.*"request_id": "mine".*\}')[0])
    assert (said["session_id"], said["route"], said["outcome"]) == (
        "ours",
        "/v1/completions",
        "length",
    )
    assert said["completion_tokens"] == 2
    assert said["hints"] == {"vllm_xargs": "{'kind': 'batch'}"}
    process.signal(signal.SIGINT)
    assert process.status() == 0
    lines = [json.loads(line) for line in process.log]  # every line is one object
    assert sum(line.get("request_id") == "mine" for line in lines) == 1
    assert "a1b1" not in "".join(process.log)


def test_texts_are_logged_on_demand(start: Callable[..., Process]) -> None:
    process = start("--log-text")
    post(process.url, {**SHORT, "prompt": "a1b1"})
    process.until("gsr_engine.requests: .*a1b1")


def test_keys_come_from_the_environment_a_file_or_a_flag(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\nfirst\nsecond\n")
    for process, good in (
        (start(GSR_API_KEYS="one,two"), ("one", "two")),
        (start("--api-key-file", str(file), GSR_API_KEYS="one"), ("first", "second")),
        (start("--api-key", "a", "--api-key", "b"), ("a", "b")),
    ):
        url = process.url
        for key in (*good, "# of the team", "other", ""):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            models = httpx.get(f"{url}/v1/models", headers=headers, timeout=SOON)
            assert models.status_code == (200 if key in good else 401), key
        for open_to_all in ("health", "ready", "metrics"):
            assert httpx.get(f"{url}/{open_to_all}", timeout=SOON).status_code == 200
        process.child.kill()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--max-k", "0"], "--max-k: must be an integer from 1"),
        (["--shutdown-delay", "-1"], "--shutdown-delay: must be a number from 0"),
        (["--max-pending", "0"], "--max-pending: must be"),
        (["--api-key", "a", "--api-key-file", "b"], "--api-key: contradicts --api-key-file"),
        (["--default-chat-template-kwargs", "[]"], "--default-chat-template-kwargs: must be"),
        (["no/such/model"], "no/such/model"),
    ],
)
def test_what_is_refused_is_one_line(
    start: Callable[..., Process], flags: list[str], said: str
) -> None:
    process = start(*flags)
    assert process.status() == 2
    assert said in process.log[-1]
    assert "Traceback" not in "".join(process.log)


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_the_extra_it_says_how_to_get_it(
    start: Callable[..., Process], package: str
) -> None:
    process = start(before=f"import sys\nsys.modules[{package!r}] = None")
    assert process.status() == 2
    assert process.log == [f"gsr: serve needs {package}: pip install 'gsr-engine[serve]'\n"]


def test_whoever_sends_a_second_request_and_leaves_is_noticed(
    start: Callable[..., Process],
) -> None:
    process = start()
    address = process.url.removeprefix("http://").split(":")
    body = json.dumps({**LONG, "n": 32}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    first = head.encode() + b"Content-Type: application/json\r\n\r\n" + body
    with socket.create_connection((address[0], int(address[1]))) as client:
        client.sendall(first + b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: running(process.url, 1), process)
    eventually(lambda: running(process.url, 0), process)
    finished = httpx.get(f"{process.url}/metrics").text
    assert 'outcome="aborted"' in finished
    assert 'outcome="length"' not in finished


def test_headers_without_end_are_refused(start: Callable[..., Process]) -> None:
    address = start().url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nX-Long: " + b"a" * 70_000)
        client.settimeout(SOON)
        assert b" 400 " in client.recv(100)
