"""What every route of one server needs."""

from __future__ import annotations

from dataclasses import dataclass

from gsr_engine.serving.async_engine import AsyncEngine
from gsr_engine.serving.http.auth import Keys
from gsr_engine.serving.http.health import Health
from gsr_engine.serving.http.metrics import Metrics
from gsr_engine.serving.http.request_log import RequestLog
from gsr_engine.serving.http.settings import Settings


@dataclass(frozen=True, slots=True)
class Server:
    """One engine behind HTTP. Routes get it by a closure, so that any app can mount them.

    Attributes:
        engine: answers the requests.
        settings: how.
        keys: the API keys; None lets everybody in.
        metrics, log: what is told of every request.
        health: whether it is alive, ready, or refuses requests.
        created: when it was made, in seconds since 1970.
    """

    engine: AsyncEngine
    settings: Settings
    keys: Keys | None
    metrics: Metrics
    log: RequestLog
    health: Health
    created: int

    @property
    def name(self) -> str:
        """The model's id."""
        return self.settings.model_name
