"""What Prometheus reads: `/metrics`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from gsr_engine.errors import EngineClosed, InvalidRequest
from gsr_engine.serving.async_engine import AsyncEngine
from gsr_engine.serving.http.engine_metrics import MODEL, engine_families
from gsr_engine.serving.http.instruments import Instruments
from gsr_engine.serving.http.vllm_names import vllm_families

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
"""What every scraper reads. OpenMetrics' format has no colons in names, as vLLM's names have."""
PATIENCE = 1.0
"""Seconds for which a scrape waits for the engine, which answers between two steps; then it shows
what it saw last. A look younger than that is not taken again."""


class Metrics:
    """All metrics of one engine and its server.

    The engine's own counters are looked at when they are scraped, between two of its steps. A host
    may expose a registry of its own by itself. If it does so in its event loop, which must not
    wait, it shows what the engine counted at the scrape before.

    Attributes:
        registry: what `/metrics` shows.
        instruments: what is counted of requests.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        model: str,
        registry: CollectorRegistry | None = None,
        *,
        vllm: bool = False,
    ) -> None:
        """Measure an engine.

        Args:
            engine: the engine.
            model: the name under which it is served.
            registry: where the metrics go; None makes one.
            vllm: show what vLLM has, too, under its names as well.

        Raises:
            InvalidRequest: the registry has the metrics of another engine.
        """
        self._engine, self._model, self._vllm = engine, model, vllm
        self._stats: Mapping[str, Any] = {}
        self._looked_at = float("-inf")
        self._look: asyncio.Task[None] | None = None  # or it could be collected while it runs
        self.instruments = Instruments(model)
        self.registry = CollectorRegistry() if registry is None else registry
        try:
            self.registry.register(self)
        except ValueError:
            raise InvalidRequest(
                "registry", "has metrics of these names: give each engine a registry of its own"
            ) from None

    async def render(self) -> bytes:
        """The metrics in Prometheus' text format 0.0.4."""
        await self._look_at_engine()
        return generate_latest(self.registry)

    async def _look_at_engine(self) -> None:
        with suppress(EngineClosed, TimeoutError):
            self._stats = await asyncio.wait_for(self._engine.stats(), PATIENCE)
        self._looked_at = time.monotonic()

    def describe(self) -> Iterator[Metric]:
        """The names, for the registry, which refuses the same ones twice."""
        yield from self._families({})

    def collect(self) -> Iterator[Metric]:
        """All families; the registry calls it in any thread."""
        if time.monotonic() - self._looked_at > PATIENCE:
            self._look_from_outside()
        yield from self._families(self._stats)

    def _look_from_outside(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self._look_at_engine())
        else:
            self._look = loop.create_task(self._look_at_engine())

    def _families(self, stats: Mapping[str, Any]) -> list[Metric]:
        up = GaugeMetricFamily("gsr_engine_up", "1 while the engine runs, else 0.", labels=[MODEL])
        up.add_metric([self._model], not self._engine.loop.ended.done())
        families = [up, *engine_families(stats, self._model), *self.instruments.families()]
        if self._vllm:
            families += vllm_families(families, self._model)
        return families


def metrics_routes(metrics: Metrics) -> APIRouter:
    """`/metrics`, for Prometheus."""
    router = APIRouter()

    @router.get("/metrics")
    async def get_metrics() -> Response:
        """The metrics in Prometheus' text format, whatever the client accepts."""
        return Response(await metrics.render(), media_type=TEXT_FORMAT)

    return router
