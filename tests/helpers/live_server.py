"""A server that listens, in a thread of its own, and what its streams say."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import httpx
import uvicorn

WAIT = 60.0


@contextmanager
def live(app: Any, lifespan: Literal["on", "off"] = "off") -> Iterator[str]:
    """Serve an application; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan=lifespan, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(WAIT)
        listener.close()


def until(condition: Callable[[], object]) -> None:
    """Wait for something that happens soon."""
    ends = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.005)


def events(response: httpx.Response) -> Iterator[Any]:
    """The chunks of a stream; it must end with its mark."""
    done = False
    for line in response.iter_lines():
        if not line or line.startswith(":"):
            continue
        assert not done
        assert line.startswith("data: "), line
        done = line == "data: [DONE]"
        if not done:
            yield json.loads(line.removeprefix("data: "))
    assert done


def stream(client: httpx.Client, path: str, **fields: Any) -> list[Any]:
    """The chunks of one request."""
    with client.stream("POST", path, json={**fields, "stream": True}) as response:
        if response.status_code != 200:
            raise AssertionError(response.read())
        return list(events(response))


def joined(chunks: list[Any], name: str, index: int = 0) -> str:
    """What the deltas of a choice say in a field, together."""
    return "".join(
        choice["delta"].get(name) or ""
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["index"] == index
    )
