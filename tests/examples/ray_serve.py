"""selfRef@k on Ray Serve: replicas of the whole API, each with an engine of its own.

`python -m tests.examples.ray_serve` starts two of them at http://127.0.0.1:8000. A request is a
group, and lives in one replica: no affinity is needed. If a replica dies, its requests fail with an
error that clients retry, and Ray starts another.
"""

from __future__ import annotations

from fastapi import FastAPI
from ray import serve

from gsr_engine import AsyncEngine
from gsr_engine.demo.report import NANO
from gsr_engine.serving import create_app


def replica() -> FastAPI:
    """The API of one replica; called in its own process."""
    return create_app(AsyncEngine.from_pretrained(NANO, threads=1, max_pending=64))


deployment = serve.deployment(
    serve.ingress(replica)(), name="gsr", num_replicas=2, max_ongoing_requests=64
)

if __name__ == "__main__":
    serve.run(deployment.bind(), blocking=True)
