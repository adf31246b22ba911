"""A generation run as plain values, and what each of its processes opens from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from gsr_engine import Engine, InvalidRequest
from gsr_engine.checkpoint.digest import tokenizer_digest
from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.checkpoint.gsr_config import GsrConfig
from train.generation.drawer import DrawConfig, Drawer
from train.generation.endpoint_drawer import EndpointDrawer
from train.generation.engine_drawer import EngineDrawer
from train.generation.questions import Question, direct_prompts, load_refine_prompts
from train.generation.store import SHARD_SIZE, Store
from train.generation.worker import Report, Tally, generate
from train.grading import grader_for
from train.options import check_least, part_of
from train.problems import load_problems, parse_columns

Task = Literal["direct", "refine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationJob:
    """What is drawn, by whom, and where it goes: values only, which can be pickled.

    Attributes:
        task: "direct" solves problems, "refine" refines the sets that `train.build refine` wrote.
        data: of "direct": problems as JSONL, Parquet, a folder of them, or a hub id. Of "refine":
            JSONL of sets.
        model: folder or hub id of a checkpoint; with a server, the server's name for it.
        out: folder of the samples.
        n: samples per prompt; may be raised later.
        columns: e.g. "problem=question,answer=final"; "answer=" if there is none.
        split: of a hub data set, e.g. "train[:1000]".
        limit: only the first prompts.
        temperature: of the samples.
        top_p: smallest set of tokens of this mass; 1: all.
        top_k: most likely tokens only; 0: all.
        max_tokens: longest sample.
        seed: of all samples.
        dtype: auto, float32 or bfloat16.
        quantization: auto, none, int8 or fp8.
        max_model_len: longest context in tokens; the checkpoint's if not given.
        streams: samples that the engine decodes at a time.
        base_url: ask this server instead of running the engine.
        prompts: folder whose gsr.json has the prompts; otherwise the checkpoint's own, or for a
            server the built-in ones.
        concurrency: requests to the server at a time.
        retries: of a request to the server.
        timeout: seconds for a try of a request.
        budget_tokens: stop before this run generates more, over all workers.
        retry_failed: draw failed samples again.
        shard_size: prompts of a shard.
        lease_seconds: a worker that is silent for this long loses its shards.

    Raises:
        InvalidRequest: a number is below its limit.
    """

    task: Task
    data: str
    model: str
    out: Path
    n: int = 1
    columns: str = ""
    split: str = "train"
    limit: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 4096
    seed: int = 0
    dtype: str = "auto"
    quantization: str = "auto"
    max_model_len: int | None = None
    streams: int = 512
    base_url: str | None = None
    prompts: Path | None = None
    concurrency: int = 64
    retries: int = 8
    timeout: float = 1800.0
    budget_tokens: int | None = None
    retry_failed: bool = False
    shard_size: int = SHARD_SIZE
    lease_seconds: float = 300.0

    def __post_init__(self) -> None:
        """Raise InvalidRequest for values that cannot be."""
        check_least(self, n=1, limit=1, seed=0, concurrency=1, retries=0)
        check_least(self, shard_size=1, lease_seconds=1)


class Generate(Protocol):
    """`generate` with the store, drawer, grader and budget of a job."""

    def __call__(self, *, shards: list[int] | None = None, report: Report | None = None) -> Tally:
        """As `generate`; it can be called again."""


def open_store(job: GenerationJob) -> Store:
    """The store of a job; a process loads the prompts once, here."""
    return Store(
        job.out,
        part_of(DrawConfig, job, template=_gsr(job).template.hash, tokenizer=_tokenizer(job)),
        _load_prompts(job),
        job.n,
        shard_size=job.shard_size,
        lease_seconds=job.lease_seconds,
        retry_failed=job.retry_failed,
    )


@contextmanager
def opened(job: GenerationJob, store: Store) -> Iterator[Generate]:
    """The drawer and the grader of a job, until the context ends, as a function to work with."""
    gsr = _gsr(job)
    with ExitStack() as stack:
        grader = stack.enter_context(grader_for(gsr))
        drawer = _open_drawer(job, store.config, gsr, stack)
        yield partial(generate, store, drawer, grader, budget=job.budget_tokens)


def _open_drawer(
    job: GenerationJob, config: DrawConfig, gsr: GsrConfig, stack: ExitStack
) -> Drawer:
    if job.base_url is None:
        engine = Engine.from_pretrained(
            job.model,
            dtype=job.dtype,
            quantization=job.quantization,
            max_model_len=job.max_model_len,
            max_num_seqs=job.streams,
            prefix_cache=False,
            template=_prompts_file(job),
            generation_config="none",
        )
        return EngineDrawer(stack.enter_context(engine), config)
    drawer = EndpointDrawer(
        config,
        gsr,
        job.base_url,
        concurrency=job.concurrency,
        retries=job.retries,
        timeout=job.timeout,
    )
    return stack.enter_context(drawer)


def _gsr(job: GenerationJob) -> GsrConfig:
    """The texts around problems, and how answers are found.

    Raises:
        InvalidRequest: these texts ask for no form of answer, so no sample would have one.
    """
    gsr = _stated(job)
    if not gsr.template.answer_form:
        raise InvalidRequest("prompts", f"the template {gsr.template.name} states no answer form")
    return gsr


def _stated(job: GenerationJob) -> GsrConfig:
    if job.base_url is None:
        own = GsrConfig.from_folder(find_checkpoint(job.model, weights=False))
        file = _prompts_file(job)
        return own if file is None else own.with_prompts_of(file)
    return GsrConfig() if job.prompts is None else GsrConfig.from_folder(job.prompts)


def _prompts_file(job: GenerationJob) -> Path | None:
    return None if job.prompts is None else job.prompts / "gsr.json"


def _tokenizer(job: GenerationJob) -> str:
    """The digest of the engine's tokenizer; "" for a server."""
    if job.base_url is not None:
        return ""
    return tokenizer_digest(find_checkpoint(job.model, weights=False))


def _load_prompts(job: GenerationJob) -> list[Question]:
    """What is asked, in order."""
    if job.task == "refine":
        return load_refine_prompts(Path(job.data))[: job.limit]
    problems = load_problems(job.data, parse_columns(job.columns), job.split)
    return direct_prompts(problems)[: job.limit]
