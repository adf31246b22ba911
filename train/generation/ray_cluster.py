"""Generation on a Ray cluster: the same workers as actors of Ray Data, over the same store.

The folder of the store, the data and this checkout must be on a file system of all nodes.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gsr_engine.errors import InvalidRequest
from train.generation.job import GenerationJob, open_store, opened
from train.generation.worker import Tally

_BATCH = 4
"""Shards that an actor is given at a time: it runs dry at the end of each batch."""


class ShardActor:
    """Keeps its model, and finishes the shards that it is given."""

    def __init__(self, job: GenerationJob) -> None:
        self._context = opened(job, open_store(job))  # ends with the actor's process
        self._draw = self._context.__enter__()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Finish shards; the result is one row, a tally."""
        tally = self._draw(shards=batch["id"].tolist())
        return {name: [count] for name, count in asdict(tally).items()}


def run_on_ray(job: GenerationJob, workers: int, num_shards: int) -> Tally:
    """Finish the shards of a job's store on `workers` actors.

    Each actor has a GPU if the cluster has any. Ray starts an actor again that died; another one
    draws what is missing of its shards.

    Raises:
        InvalidRequest: Ray is not installed, or a budget is asked for.
    """
    if find_spec("ray") is None:
        raise InvalidRequest("ray", "needs Ray Data: pip install 'gsr-engine[ray]'")
    if job.budget_tokens is not None:
        raise InvalidRequest("budget_tokens", "is not kept on Ray")
    import ray  # noqa: PLC0415  # an extra

    if not ray.is_initialized():
        ray.init()
    gpus = job.base_url is None and ray.cluster_resources().get("GPU", 0) > 0
    # One block is one batch, so that all actors get some.
    shards = ray.data.range(num_shards, override_num_blocks=-(-num_shards // _BATCH))
    done = shards.map_batches(
        ShardActor,
        # Actors have folders of their own.
        fn_constructor_args=(replace(job, out=job.out.absolute(), data=_absolute(job.data)),),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1 if gpus else 0,
    )
    total = Tally()
    for row in done.iter_rows():
        total.add(Tally(**row))
    return total


def _absolute(path_or_id: str) -> str:
    return str(Path(path_or_id).absolute()) if Path(path_or_id).exists() else path_or_id
