"""python -m train.generate: samples for training, at any scale, that survive any interruption.

    direct    problems to solutions: the student's candidates, or a teacher's direct targets
    refine    candidate sets (of `train.build refine`) to refined solutions: a teacher's targets

Samples are drawn by this engine, or by any server that speaks OpenAI's chat completions
(`--base-url`). Start the same command as often as you like, on any number of hosts that share the
folder, at once or again after a crash: each draws what is missing. It ends when nothing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tyro.conf import Positional

from gsr_engine.errors import GsrError
from train.command import log, run_command
from train.generation.job import GenerationJob, Task, open_store, opened
from train.generation.processes import run_workers
from train.generation.progress import GenerationProgress
from train.generation.ray_cluster import run_on_ray
from train.generation.worker import Tally
from train.options import check_least, parse_options, part_of
from train.signals import resumable


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions(GenerationJob):
    """A job, and the workers that do it.

    Attributes:
        workers: processes on this host; each has a GPU of its own, where there are any.
        ray: run the workers as actors of a Ray cluster.
    """

    task: Positional[Task]
    workers: int = 1
    ray: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidRequest for values that cannot be."""
        GenerationJob.__post_init__(self)  # with slots, super() does not know this class
        check_least(self, workers=1)


class SamplesFailed(GsrError):
    """Every sample of a run failed for good."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw n samples of every prompt and grade them, going on where earlier runs stopped."""
    description = f"{main.__doc__}\n\n{__doc__}"
    options = parse_options("train.generate", GenerateOptions, description, arguments)
    job = part_of(GenerationJob, options)
    with resumable():
        if run(job, options.workers, ray=options.ray).out_of_budget:
            raise SystemExit(3)  # samples are missing: what follows must not begin


def run(job: GenerationJob, workers: int, *, ray: bool = False) -> Tally:
    """Run a job here, in processes of their own where they are several, or on a Ray cluster.

    Raises:
        SamplesFailed: not one sample was drawn.
    """
    store = open_store(job)
    if job.retry_failed:
        store.reopen_failed()
    progress = GenerationProgress(store)
    if ray:
        tally = run_on_ray(job, workers, store.num_shards)
    elif workers == 1:
        with opened(job, store) as draw:
            tally = draw(report=progress)
    else:
        tally = run_workers(job, workers, store, progress)
    progress.log(tally)
    if store.complete():
        tally.out_of_budget = 0  # others could pay for the rest
    if tally.failed == store.num_samples:
        raise SamplesFailed(
            f"all {tally.failed:,} samples failed; `error` in the files of {job.out} says why, and "
            "--retry-failed draws them again"
        )
    if tally.out_of_budget:
        log.info("the budget is spent; the same command goes on with a new one")
    return tally


if __name__ == "__main__":
    run_command("generate", main)
