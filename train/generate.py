"""python -m train.generate: samples for training, at any scale, that survive any interruption.

    direct    problems to solutions: the student's candidates, or a teacher's direct targets
    refine    candidate sets (of `train.build refine`) to refined solutions: a teacher's targets

Samples are drawn by this engine, or by any server that speaks OpenAI's chat completions
(`--base-url`). Start the same command as often as you like, on any number of hosts that share the
folder, at once or again after a crash: each draws what is missing. It ends when nothing is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from train.command import log, run_command
from train.generation.job import GenerationJob, GenerationWorker, Task
from train.generation.processes import interrupt_on_sigterm, run_workers
from train.generation.progress import GenerationProgress
from train.generation.ray_cluster import run_on_ray
from train.generation.store import SHARD_SIZE
from train.generation.worker import Tally
from train.problems import parse_columns


def main(
    task: Annotated[Task, typer.Argument(help="What is asked.")],
    data: Annotated[
        str, typer.Option(help="Problems: JSONL, Parquet, a folder, a hub id; or JSONL of sets.")
    ],
    model: Annotated[str, typer.Option(help="Folder or hub id; the server's name for it.")],
    out: Annotated[Path, typer.Option(help="Folder of the samples.")],
    n: Annotated[int, typer.Option(min=1, help="Samples per prompt; may be raised later.")] = 1,
    columns: Annotated[
        str, typer.Option(help='E.g. "problem=question,answer=final"; "answer=" if there is none.')
    ] = "",
    split: Annotated[str, typer.Option(help='Of a hub data set, e.g. "train[:1000]".')] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first prompts.")] = None,
    temperature: Annotated[float, typer.Option(help="Of the samples.")] = 1.0,
    top_p: Annotated[
        float, typer.Option(help="Smallest set of tokens of this mass; 1: all.")
    ] = 1.0,
    top_k: Annotated[int, typer.Option(help="Most likely tokens only; 0: all.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Longest sample.")] = 4096,
    seed: Annotated[int, typer.Option(min=0, help="Of all samples.")] = 0,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes on this host; a GPU each, where there are any.")
    ] = 1,
    ray: Annotated[bool, typer.Option(help="Run the workers as actors of a Ray cluster.")] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    streams: Annotated[int, typer.Option(help="Samples that the engine decodes at a time.")] = 512,
    base_url: Annotated[str | None, typer.Option(help="Ask this server instead.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="For a server: folder whose gsr.json has the prompts.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to the server at a time.")] = 64,
    retries: Annotated[int, typer.Option(min=0, help="Of a request to the server.")] = 8,
    timeout: Annotated[float, typer.Option(help="Seconds for a try of a request.")] = 1800.0,
    budget_tokens: Annotated[
        int | None, typer.Option(help="Stop before this run generates more, over all workers.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Draw failed samples again.")] = False,
    shard_size: Annotated[int, typer.Option(min=1, help="Prompts of a shard.")] = SHARD_SIZE,
    lease_seconds: Annotated[
        float, typer.Option(min=1.0, help="A worker silent for so long loses its shards.")
    ] = 300.0,
) -> None:
    """Draw n samples of every prompt and grade them, going on where earlier runs stopped."""
    job = GenerationJob(
        task=task,
        data=data,
        model=model,
        out=out,
        n=n,
        columns=parse_columns(columns),
        split=split,
        limit=limit,
        prompts=prompts,
        sampling={
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "max_tokens": max_tokens,
            "seed": seed,
        },
        shard_size=shard_size,
        lease_seconds=lease_seconds,
        retry_failed=retry_failed,
        engine={"dtype": dtype, "max_num_seqs": streams},
        base_url=base_url,
        endpoint={"concurrency": concurrency, "retries": retries, "timeout": timeout},
        budget=None if budget_tokens is None else budget_tokens // workers,
    )
    interrupt_on_sigterm()
    try:
        if run(job, workers, ray=ray).out_of_budget:
            raise typer.Exit(3)  # samples are missing: what follows must not begin
    except KeyboardInterrupt:
        log.info("interrupted; the same command goes on")
        raise typer.Exit(130) from None


def run(job: GenerationJob, workers: int, *, ray: bool = False) -> Tally:
    """Run a job here, in processes of their own where they are several, or on a Ray cluster."""
    store = job.open_store()
    if job.retry_failed:
        store.reopen_failed()
    progress = GenerationProgress(store)
    if ray:
        tally = run_on_ray(job, workers)
    elif workers == 1:
        with GenerationWorker(job) as worker:
            tally = worker.run(report=progress)
    else:
        tally = run_workers(job, workers, progress)
    progress.log(tally)
    if store.complete():
        tally.out_of_budget = 0  # others could pay for the rest
    if tally.out_of_budget:
        log.info("the budget is spent; the same command goes on with a new one")
    return tally


if __name__ == "__main__":
    run_command("generate", lambda: typer.run(main))
