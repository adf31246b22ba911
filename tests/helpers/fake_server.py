"""An OpenAI-compatible server in a thread, which misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Answer = tuple[int, dict[str, str], dict[str, Any] | None]
"""Status, headers, body; no body means an answer to the question."""


class FakeServer:
    """Answers with the seed that it is asked for.

    Args:
        misbehave: from a request's body and how often the same came before, to an answer; None
            lets it be answered well.
        message: fields of the answer's message besides the content.
    """

    def __init__(
        self,
        misbehave: Callable[[dict[str, Any], int], Answer | None] = lambda body, tries: None,
        message: dict[str, str] | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.requests: list[tuple[float, dict[str, Any]]] = []
        self.most_at_once = 0
        self._misbehave, self._message, self._seconds = misbehave, message or {}, seconds
        self._lock, self._at_once = threading.Lock(), 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, headers, answer = server._answer(body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _answer(self, body: dict[str, Any]) -> Answer:
        with self._lock:
            tries = sum(before == body for _, before in self.requests)
            self.requests.append((time.monotonic(), body))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self._seconds)
        try:
            status, headers, answer = self._misbehave(body, tries) or (200, {}, None)
        finally:
            with self._lock:
                self._at_once -= 1
        return status, headers, answer or self._completion(body)

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        content = f"It is \\boxed{{{body['seed'] % 10}}}."
        message = {"role": "assistant", "content": content, **self._message}
        usage = {"prompt_tokens": 1, "completion_tokens": body["seed"] % 8 + 1, "total_tokens": 1}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
        return {**head, "choices": [choice], "usage": usage}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
