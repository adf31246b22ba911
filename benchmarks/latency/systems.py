"""The systems that a command names: this engine, servers, an endpoint, transformers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from benchmarks.latency.engine_system import EngineSystem
from benchmarks.latency.http_methods import ClientsLoop, Method, OneRequest
from benchmarks.latency.http_system import HttpSystem, Served
from benchmarks.latency.library_system import LibrarySystem
from benchmarks.latency.system import System
from benchmarks.latency.transformers_library import ContinuousBatches, StaticBatches
from benchmarks.peers.servers import NAME, NotAnswered, Setting, ours, vllm
from gsr_engine import Engine, InvalidRequest
from gsr_engine.params import Layout
from gsr_engine.serving.async_engine import AsyncEngine

SYSTEMS = ("engine", "gsr-serve", "vllm", "transformers", "transformers-batching")
TOKEN_SYSTEMS = ("engine", "transformers", "transformers-batching")
"""Those whose candidates go into a refinement as token ids, not as text."""
KEY = "OPENAI_API_KEY"
"""The variable of the environment that has an endpoint's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What systems run on.

    Attributes:
        engine, front: this engine; its tokenizer and prompts serve all others, too.
        setting: of servers and libraries.
        layouts: to measure, also those that the model does not claim.
        longest: tokens of the longest context.
        most_at_once: problems.
    """

    engine: Engine
    front: AsyncEngine
    setting: Setting
    layouts: Sequence[Layout]
    longest: int
    most_at_once: int


def systems(names: Sequence[str], endpoint: str | None, setup: Setup) -> list[System]:
    """The systems of some names of `SYSTEMS`, and those of an endpoint.

    Raises:
        InvalidRequest: an unknown name, or neither a name nor an endpoint.
        NotAnswered: the endpoint does not answer.
    """
    if unknown := [name for name in names if name not in SYSTEMS]:
        raise InvalidRequest("systems", f"must be some of {', '.join(SYSTEMS)}, got {unknown[0]!r}")
    found = [system for name in names for system in _named(name, setup)]
    if endpoint is not None:
        found += _endpoint(endpoint, setup)
    if not found:
        raise InvalidRequest("systems", "is empty, and there is no endpoint")
    return found


def _named(name: str, setup: Setup) -> Iterator[System]:
    setting, prompts = setup.setting, setup.engine.prompts
    peer = (setting.model, setting.dtype, prompts.tokenizer.stop_ids)
    match name:
        case "engine":
            for layout in setup.layouts:
                yield EngineSystem(setup.engine, setup.front, layout)
        case "gsr-serve":
            yield from _used(name, partial(ours, setting), NAME, _methods(setup, knows=True), setup)
        case "vllm":
            start = partial(vllm, setting, setup.longest)
            yield from _used(name, start, NAME, _methods(setup, knows=False), setup)
        case "transformers":
            static = StaticBatches(*peer)
            yield LibrarySystem(name, static.open, prompts, setup.most_at_once)
        case _:
            batching = ContinuousBatches(*peer, setup.longest)
            yield LibrarySystem(name, batching.open, prompts, setup.most_at_once)


def _methods(setup: Setup, *, knows: bool) -> list[Method]:
    """One request for each layout if the server knows how, and the client's loop."""
    claimed = setup.engine.gsr.layouts
    methods: list[Method] = [ClientsLoop()]
    if knows:
        methods[:0] = [OneRequest(one, one not in claimed) for one in setup.layouts]
    return methods


def _used(
    server: str,
    start: Callable[[], AbstractContextManager[Served]],
    model: str,
    methods: Sequence[Method],
    setup: Setup,
    **options: Any,
) -> Iterator[System]:
    for method in methods:
        yield HttpSystem(server, start, model, setup.engine.gsr, method, **options)


class _Endpoint:
    """A server that others started. Its pages are not told: others may use them, too."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def pages_used(self, client: httpx.AsyncClient) -> None:
        return None


def _endpoint(url: str, setup: Setup) -> Iterator[System]:
    """An endpoint by its address, with or without `v1`; it says whether it knows `gsr`."""
    base, key = url.rstrip("/").removesuffix("/v1"), os.environ.get(KEY, "")
    try:
        reply = httpx.get(
            f"{base}/v1/models", headers={"Authorization": f"Bearer {key}"} if key else {}
        )
        reply.raise_for_status()
        model = reply.json()["data"][0]
        name, knows = str(model["id"]), "gsr" in model
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        raise NotAnswered(f"endpoint: {base}/v1/models: {error!r}") from None
    methods = _methods(setup, knows=knows)

    def start() -> AbstractContextManager[Served]:
        return nullcontext(_Endpoint(base))

    return _used(base, start, name, methods, setup, salted=knows, key=key)
