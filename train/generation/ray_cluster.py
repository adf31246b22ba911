"""Generation on a Ray cluster: the same workers as actors of Ray Data, over the same store.

The folder of the store, the data and this checkout must be on a file system of all nodes.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gsr_engine.errors import InvalidRequest
from train.generation.job import GenerationJob, GenerationWorker
from train.generation.worker import Tally

_BATCH = 4
"""Shards that an actor is given at a time: it runs dry at the end of each batch."""


class RayWorker:
    """An actor: keeps its model, works on the shards that it is given."""

    def __init__(self, job: GenerationJob) -> None:
        self._worker = GenerationWorker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Finish shards; one row, a tally, says what was done."""
        tally = self._worker.run(shards=batch["id"].tolist())
        return {name: [count] for name, count in asdict(tally).items()}


def run_on_ray(job: GenerationJob, workers: int) -> Tally:
    """Finish a job's store on `workers` actors, with a GPU each where the cluster has any.

    Ray starts an actor again that died; what it had is drawn by whoever gets its shards.

    Raises:
        InvalidRequest: Ray is not installed, or a budget is asked for.
    """
    if find_spec("ray") is None:
        raise InvalidRequest("ray", "needs Ray Data: pip install 'gsr-engine[ray]'")
    if job.budget is not None:
        raise InvalidRequest("budget_tokens", "is not kept on Ray")
    import ray  # noqa: PLC0415  # an extra

    if not ray.is_initialized():
        ray.init()
    num_shards = job.open_store().num_shards
    gpus = job.base_url is None and ray.cluster_resources().get("GPU", 0) > 0
    # One block is one batch, so that all actors get some.
    shards = ray.data.range(num_shards, override_num_blocks=-(-num_shards // _BATCH))
    done = shards.map_batches(
        RayWorker,
        # Workers have folders of their own.
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
