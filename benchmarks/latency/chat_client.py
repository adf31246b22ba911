"""Streamed replies of a chat over HTTP, and what the server says that they cost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.peers.servers import NotAnswered
from gsr_engine.checkpoint.gsr_config import GsrConfig

_PATH = "v1/chat/completions"


@dataclass(slots=True)
class Usage:
    """What a server says that its requests cost.

    Attributes:
        generated: tokens.
        computed: tokens that went through its model; None if it does not say.
    """

    generated: int = 0
    computed: int | None = 0

    def add(self, usage: dict[str, Any]) -> None:
        """Add the `usage` of a reply; ours has the phases beside."""
        self.generated += usage["completion_tokens"]
        phases = [one for one in usage.get("gsr", {}).values() if isinstance(one, dict)]
        if self.computed is not None and phases:
            self.computed += sum(phase["tokens_computed"] for phase in phases)
        else:
            self.computed = None


@dataclass(frozen=True, slots=True)
class Chat:
    """The chat of a model on a server.

    Args:
        client: with the server's address.
        model: what requests call it.
        gsr: how its solutions state their answers, and its template.
        salted: whether the server knows `cache_salt`.
    """

    client: httpx.AsyncClient
    model: str
    gsr: GsrConfig
    salted: bool

    @property
    def where(self) -> str:
        """The address, for messages."""
        return f"{str(self.client.base_url).rstrip('/')}/{_PATH}"

    async def chunks(
        self, content: str, usage: Usage, salt: str, **fields: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a streamed reply as they come; its usage is added to `usage`.

        Raises:
            NotAnswered: the server refused, failed, or did not say what the reply cost.
        """
        message = {"role": "user", "content": content}
        options = {"stream": True, "stream_options": {"include_usage": True}}
        salted = {"cache_salt": salt} if self.salted else {}
        body = {"model": self.model, "messages": [message], **options, **salted, **fields}
        counted = False
        try:
            async with self.client.stream("POST", _PATH, json=body) as reply:
                if reply.status_code != 200:
                    text = (await reply.aread()).decode(errors="replace")
                    raise NotAnswered(f"{self.where}: status {reply.status_code}: {text[:300]}")
                async for line in reply.aiter_lines():
                    if not line.startswith("data:") or line.endswith("[DONE]"):
                        continue
                    chunk = json.loads(line.removeprefix("data:"))
                    if "error" in chunk:
                        raise NotAnswered(f"{self.where}: {chunk['error']}")
                    if chunk.get("usage"):
                        usage.add(chunk["usage"])
                        counted = True
                    yield chunk
        except httpx.HTTPError as error:
            raise NotAnswered(f"{self.where}: {error!r}") from None
        except ValueError as error:
            raise NotAnswered(f"{self.where}: no JSON: {error}") from None
        if not counted:
            raise NotAnswered(f"{self.where}: a stream without usage")
