"""Runs requests step by step, proving after each that every page is accounted for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gsr_engine import Engine
from gsr_engine.requests.request import Request


def run_checked(engine: Engine, requests: Iterable[Request[Any]]) -> None:
    """Submit requests and step until nothing is left to do."""
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        engine.step()
        engine.check()
